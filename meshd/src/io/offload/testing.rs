//! Packets for tests, built field by field.

use std::net::Ipv6Addr;

use super::{HEADER, IPV6_HEADER, TCP, UDP, VirtioHeader, checksum, pseudo_header};

pub(crate) const ACK: u8 = 0x10;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const CWR: u8 = 0x80;

/// One direction of a conversation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    pub(crate) from: Ipv6Addr,
    pub(crate) to: Ipv6Addr,
    pub(crate) ports: (u16, u16),
    pub(crate) traffic_class: u8,
}

impl Flow {
    /// Flows with different numbers differ in their ports only.
    pub(crate) fn number(number: u16) -> Self {
        let (from, to) = ("600::1".parse().unwrap(), "600:1::1".parse().unwrap());
        Self {
            from,
            to,
            ports: (1000 + number, 80),
            traffic_class: 0,
        }
    }

    pub(crate) fn tcp(&self, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = self.ports.0.to_be_bytes().to_vec();
        header.extend(self.ports.1.to_be_bytes());
        header.extend(sequence.to_be_bytes());
        header.extend(7u32.to_be_bytes());
        header.extend([8 << 4, flags, 1, 0, 0, 0, 0, 0]);
        header.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        self.packet(TCP, &header, payload, 16)
    }

    pub(crate) fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let mut header = self.ports.0.to_be_bytes().to_vec();
        header.extend(self.ports.1.to_be_bytes());
        header.extend((8 + payload.len() as u16).to_be_bytes());
        header.extend([0, 0]);
        self.packet(UDP, &header, payload, 6)
    }

    /// The same packet with a destination-options header before the transport header.
    pub(crate) fn udp_behind_options(&self, payload: &[u8]) -> Vec<u8> {
        let plain = self.udp(payload);
        let mut packet = plain[..IPV6_HEADER].to_vec();
        packet[6] = 60;
        packet.extend([UDP, 0, 1, 4, 0, 0, 0, 0]);
        packet.extend(&plain[IPV6_HEADER..]);
        let length = (packet.len() - IPV6_HEADER) as u16;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        packet
    }

    fn packet(&self, protocol: u8, header: &[u8], payload: &[u8], field: usize) -> Vec<u8> {
        let length = header.len() + payload.len();
        let mut packet = vec![
            0x60 | self.traffic_class >> 4,
            self.traffic_class << 4,
            0,
            0,
        ];
        packet.extend((length as u16).to_be_bytes());
        packet.extend([protocol, 64]);
        packet.extend(self.from.octets());
        packet.extend(self.to.octets());
        packet.extend(header);
        packet.extend(payload);
        let sum = checksum::sum(
            &packet[IPV6_HEADER..],
            pseudo_header(&packet, protocol, length),
        );
        packet[IPV6_HEADER + field..IPV6_HEADER + field + 2]
            .copy_from_slice(&checksum::finish(sum));
        packet
    }
}

/// A virtio header and a packet, as read from the device.
pub(crate) fn frame(header: VirtioHeader, packet: &[u8]) -> Vec<u8> {
    let mut frame = header.emit().to_vec();
    frame.extend(packet);
    assert!(frame.len() >= HEADER);
    frame
}

/// All packets of a frame.
pub(crate) fn packets(frame: &[u8]) -> Vec<Vec<u8>> {
    let mut frame = frame.to_vec();
    let mut segments = super::split(&mut frame).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = segments.next_packet() {
        packets.push(packet.to_vec());
    }
    packets
}
