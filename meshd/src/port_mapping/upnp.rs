//! UPnP's Internet Gateway Device, as much of it as maps one UDP port: SSDP (UPnP Device Architecture 1.1 §1.3), the device's description,
//! and three SOAP calls of WANIPConnection or WANPPPConnection.
//!
//! Written here rather than taken from a library because everybody on the LAN can answer the search: only the default gateway is listened to,
//! no other host is ever asked, and nothing that comes back may be long.

use std::{
    fmt::Write as _,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    num::NonZeroU16,
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout, timeout_at},
};

use crate::io::netlink::Gateway;

/// Where gateways listen for searches.
const SSDP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
/// A gateway may take so long to answer a search, as the search says.
const SEARCH: Duration = Duration::from_secs(2);
/// One request, with everything that belongs to it.
const EXCHANGE: Duration = Duration::from_secs(3);
/// Longest answer to a search, and longest document, in bytes. Descriptions have a few thousand.
const DATAGRAM: usize = 2048;
const DOCUMENT: usize = 64 << 10;
/// Datagrams of others that are looked at during one search.
const DATAGRAMS: usize = 64;
/// External ports that are tried.
const PORTS: usize = 4;
/// The router gives mappings for ever only.
const ONLY_PERMANENT: &str = "725";
/// Somebody else has this port.
const CONFLICT: &str = "718";

/// Why a router cannot be asked by UPnP.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpnpError {
    #[error("UPnP: the search failed")]
    Search(#[source] io::Error),
    #[error("UPnP: no answer")]
    Silent,
    #[error("UPnP: cannot {step}: {why}")]
    Exchange { step: &'static str, why: String },
    #[error("UPnP: the description names no service that maps ports")]
    NoService,
    #[error("UPnP: refused with error {0}")]
    Refused(String),
}

/// A port that is mapped.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) external: SocketAddrV4,
    service: Service,
}

/// A service of the gateway that maps ports.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Service {
    /// Its type, as it has to be repeated in each call.
    kind: String,
    /// Where it is called.
    control: Place,
}

/// A document of the gateway's.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Place {
    host: SocketAddrV4,
    /// Begins with a slash.
    path: String,
}

/// Maps a UDP port, or renews `before`.
pub(super) async fn map(
    gateway: Gateway,
    port: NonZeroU16,
    lease: u32,
    before: Option<Mapping>,
) -> Result<Mapping, UpnpError> {
    if let Some(Mapping { external, service }) = before
        && let Ok(()) = add(&service, external.port(), port, gateway.own, lease).await
        && let Ok(address) = external_address(&service).await
    {
        let external = SocketAddrV4::new(address, external.port());
        return Ok(Mapping { external, service });
    }
    let place = search(gateway).await?;
    let description = exchange("read the description", &place, None).await?;
    let service = service(&description, &place).ok_or(UpnpError::NoService)?;
    let mut external = port.get();
    for _ in 0..PORTS {
        match add(&service, external, port, gateway.own, lease).await {
            Ok(()) => {
                let address = external_address(&service).await?;
                let external = SocketAddrV4::new(address, external);
                return Ok(Mapping { external, service });
            }
            Err(UpnpError::Refused(code)) if code == CONFLICT => {
                external = fastrand::u16(1024..);
            }
            Err(error) => return Err(error),
        }
    }
    Err(UpnpError::Refused(CONFLICT.to_owned()))
}

impl Mapping {
    /// Has the gateway forget it.
    pub(super) async fn remove(self) -> Result<(), UpnpError> {
        let arguments = [
            ("NewRemoteHost", String::new()),
            ("NewExternalPort", self.external.port().to_string()),
            ("NewProtocol", "UDP".to_owned()),
        ];
        call(&self.service, "DeletePortMapping", &arguments)
            .await
            .map(drop)
    }
}

/// Asks who is a gateway, and returns where the default gateway says it describes itself.
async fn search(gateway: Gateway) -> Result<Place, UpnpError> {
    let socket = UdpSocket::bind((gateway.own, 0)).await;
    let socket = socket.map_err(UpnpError::Search)?;
    for version in 1..=2 {
        let request = format!(
            "M-SEARCH * HTTP/1.1\r\nHOST: {SSDP}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
             ST: urn:schemas-upnp-org:device:InternetGatewayDevice:{version}\r\n\r\n"
        );
        let sent = socket.send_to(request.as_bytes(), SSDP).await;
        sent.map_err(UpnpError::Search)?;
    }
    let end = Instant::now() + SEARCH;
    let mut datagram = [0; DATAGRAM];
    for _ in 0..DATAGRAMS {
        let Ok(received) = timeout_at(end, socket.recv_from(&mut datagram)).await else {
            break;
        };
        let (length, from) = received.map_err(UpnpError::Search)?;
        if from.ip() == gateway.address
            && let Some(place) = location(&datagram[..length])
            && *place.host.ip() == gateway.address
        {
            return Ok(place);
        }
    }
    Err(UpnpError::Silent)
}

/// Where the answer to a search says that the description is.
fn location(answer: &[u8]) -> Option<Place> {
    let answer = std::str::from_utf8(answer).ok()?;
    let mut lines = answer.split("\r\n");
    let status = lines.next()?;
    if !(status.starts_with("HTTP/1.") && status.split(' ').nth(1) == Some("200")) {
        return None;
    }
    lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("location").then_some(())?;
        Place::parse(value.trim())
    })
}

impl Place {
    /// Of a URL whose host is an address, and which has nothing but a path behind that.
    fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("http://")?;
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let host = host
            .parse()
            .or_else(|_| host.parse().map(|host| SocketAddrV4::new(host, 80)))
            .ok()?;
        Self::at(host, path)
    }

    /// Another document of the same host, by its path or URL.
    fn sibling(&self, url: &str) -> Option<Self> {
        if url.starts_with("http://") {
            return Self::parse(url).filter(|place| place.host.ip() == self.host.ip());
        }
        let slash = if url.starts_with('/') { "" } else { "/" };
        Self::at(self.host, &format!("{slash}{url}"))
    }

    fn at(host: SocketAddrV4, path: &str) -> Option<Self> {
        let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic());
        let path = path.to_owned();
        (host.port() != 0 && is_plain).then_some(Self { host, path })
    }
}

/// The first service in a description that maps ports.
fn service(description: &str, place: &Place) -> Option<Service> {
    let document = roxmltree::Document::parse(description).ok()?;
    let maps = |kind: &str| {
        kind.starts_with("urn:schemas-upnp-org:service:WANIPConnection:")
            || kind.starts_with("urn:schemas-upnp-org:service:WANPPPConnection:")
    };
    let services = document
        .descendants()
        .filter(|node| node.tag_name().name() == "service");
    services.into_iter().find_map(|service| {
        let text = |name| {
            let child = service
                .children()
                .find(|node| node.tag_name().name() == name);
            child.and_then(|node| node.text()).map(str::trim)
        };
        let kind = text("serviceType").filter(|kind| maps(kind))?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b":-._".contains(&byte);
        kind.bytes().all(is_plain).then_some(())?;
        Some(Service {
            kind: kind.to_owned(),
            control: place.sibling(text("controlURL")?)?,
        })
    })
}

async fn add(
    service: &Service,
    external: u16,
    internal: NonZeroU16,
    own: Ipv4Addr,
    lease: u32,
) -> Result<(), UpnpError> {
    let arguments = |lease: u32| {
        [
            ("NewRemoteHost", String::new()),
            ("NewExternalPort", external.to_string()),
            ("NewProtocol", "UDP".to_owned()),
            ("NewInternalPort", internal.to_string()),
            ("NewInternalClient", own.to_string()),
            ("NewEnabled", "1".to_owned()),
            ("NewPortMappingDescription", "meshd".to_owned()),
            ("NewLeaseDuration", lease.to_string()),
        ]
    };
    match call(service, "AddPortMapping", &arguments(lease)).await {
        Err(UpnpError::Refused(code)) if code == ONLY_PERMANENT => {
            call(service, "AddPortMapping", &arguments(0)).await?
        }
        answer => answer?,
    };
    Ok(())
}

async fn external_address(service: &Service) -> Result<Ipv4Addr, UpnpError> {
    let answer = call(service, "GetExternalIPAddress", &[]).await?;
    let address = element(&answer, "NewExternalIPAddress").and_then(|text| text.parse().ok());
    address
        .filter(|address: &Ipv4Addr| !address.is_unspecified())
        .ok_or_else(|| UpnpError::Exchange {
            step: "read the external address",
            why: "there is none".to_owned(),
        })
}

/// Calls an action of a service, and returns the answer's document.
async fn call(
    service: &Service,
    action: &'static str,
    arguments: &[(&str, String)],
) -> Result<String, UpnpError> {
    let kind = &service.kind;
    let mut body = format!(
        "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{action} xmlns:u=\"{kind}\">"
    );
    for (name, value) in arguments {
        // Neither names nor values of ours have characters that XML would take for its own.
        let _ = write!(body, "<{name}>{value}</{name}>");
    }
    let _ = write!(body, "</u:{action}></s:Body></s:Envelope>");
    let soap = Soap {
        action: format!("\"{kind}#{action}\""),
        body,
    };
    exchange(action, &service.control, Some(soap)).await
}

struct Soap {
    action: String,
    body: String,
}

/// Asks for a document, or has an action carried out.
async fn exchange(
    step: &'static str,
    place: &Place,
    soap: Option<Soap>,
) -> Result<String, UpnpError> {
    let failed = |why: String| UpnpError::Exchange { step, why };
    let asked = timeout(EXCHANGE, request(place, soap)).await;
    let (status, document) = asked
        .map_err(|_| failed("no answer in time".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    if status == StatusCode::OK {
        return Ok(document);
    }
    match element(&document, "errorCode") {
        Some(code) if code.len() <= 5 => Err(UpnpError::Refused(code)),
        Some(_) | None => Err(failed(status.to_string())),
    }
}

async fn request(
    place: &Place,
    soap: Option<Soap>,
) -> Result<(StatusCode, String), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(SocketAddr::from(place.host)).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .uri(&place.path)
        .header(header::HOST, place.host.to_string())
        .header(header::CONNECTION, "close");
    let request = match soap {
        None => request.method("GET").body(Full::new(Bytes::new()))?,
        Some(Soap { action, body }) => request
            .method("POST")
            .header("SOAPAction", action)
            .header(header::CONTENT_TYPE, "text/xml; charset=\"utf-8\"")
            .body(Full::new(body.into()))?,
    };
    let mut answer = std::pin::pin!(async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), DOCUMENT)
            .collect()
            .await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body.to_bytes()))
    });
    let answered = tokio::select! {
        answered = &mut answer => answered,
        // It may be closed as soon as everything has been read from it.
        _ = connection => answer.await,
    };
    let (status, body) = answered?;
    Ok((status, String::from_utf8(body.to_vec())?))
}

/// The text of the first element of this name, in whatever namespace.
fn element(document: &str, name: &str) -> Option<String> {
    let document = roxmltree::Document::parse(document).ok()?;
    let mut nodes = document.descendants();
    let node = nodes.find(|node| node.tag_name().name() == name)?;
    node.text().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(url: &str) -> Place {
        Place::parse(url).unwrap()
    }

    #[test]
    fn the_description_is_where_the_answer_says() {
        let answer = |location: &str| {
            format!("HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nlocation: {location}\r\n\r\n")
        };
        let at = |url: &str| location(answer(url).as_bytes());
        assert_eq!(
            at("http://192.168.1.1:5000/rootDesc.xml"),
            Some(Place {
                host: "192.168.1.1:5000".parse().unwrap(),
                path: "/rootDesc.xml".to_owned(),
            })
        );
        assert_eq!(
            at("http://192.168.1.1"),
            Some(place("http://192.168.1.1:80/"))
        );
        for other in [
            "https://192.168.1.1/d",
            "http://router.lan/d",
            "http://192.168.1.1:0/d",
            "http://192.168.1.1:99999/d",
            "http://user@192.168.1.1/d",
            "http://[fe80::1]/d",
            "http://192.168.1.1/a b",
            "file:///etc/passwd",
        ] {
            assert_eq!(at(other), None, "{other}");
        }
        let refused = "HTTP/1.1 404 OK\r\nlocation: http://192.168.1.1/d\r\n\r\n";
        assert_eq!(location(refused.as_bytes()), None);
    }

    #[test]
    fn no_other_host_is_called_whatever_the_description_says() {
        let root = place("http://192.168.1.1:5000/rootDesc.xml");
        let description = |kind: &str, control: &str| {
            format!(
                "<root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device><serviceList>\
                 <service><serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType>\
                 <controlURL>/other</controlURL></service>\
                 <service><serviceType>{kind}</serviceType><controlURL>{control}</controlURL></service>\
                 </serviceList></device></root>"
            )
        };
        const WAN: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";
        let control = |control: &str| service(&description(WAN, control), &root);
        let expected = |path: &str| {
            Some(Service {
                kind: WAN.to_owned(),
                control: place(&format!("http://192.168.1.1:5000{path}")),
            })
        };
        assert_eq!(control("/ctl/IPConn"), expected("/ctl/IPConn"));
        assert_eq!(control("ctl/IPConn"), expected("/ctl/IPConn"));
        assert_eq!(control("http://192.168.1.1:5000/c"), expected("/c"));
        assert_eq!(control("http://192.168.1.7:5000/c"), None);
        assert_eq!(control("http://10.0.0.1/c"), None);
        assert_eq!(service(&description("urn:other:1", "/c"), &root), None);
        assert_eq!(
            service(&description(&format!("{WAN}&quot;x"), "/c"), &root),
            None
        );
        assert_eq!(service("<root>", &root), None);
        assert_eq!(service("", &root), None);
    }

    #[test]
    fn an_answer_is_read_in_whatever_namespace_it_is() {
        let fault = "<s:Envelope xmlns:s=\"s\"><s:Body><s:Fault><detail><UPnPError xmlns=\"u\">\
                     <errorCode> 718 </errorCode></UPnPError></detail></s:Fault></s:Body></s:Envelope>";
        assert_eq!(element(fault, "errorCode").as_deref(), Some(CONFLICT));
        assert_eq!(element(fault, "NewExternalIPAddress"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), text in ".{0,200}") {
            let _ = location(&bytes);
            let root = place("http://192.168.1.1:5000/rootDesc.xml");
            let _ = service(&text, &root);
            let _ = root.sibling(&text);
            let _ = element(&text, "errorCode");
            let mut answer = b"HTTP/1.1 200 OK\r\nlocation: http://".to_vec();
            answer.extend(bytes);
            let _ = location(&answer);
        }
    }
}
