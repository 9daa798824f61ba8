//! Phones and others with stock WireGuard: from a code on the screen to a node behind the gateway.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::net::SocketAddr;

use netns_tests::wireguard::{Key, WireGuard};
use netns_tests::{leaf::Row, secs, traffic, wait_until};

/// The quiet zone around a code, in modules.
const QUIET: usize = 4;

/// What the code says that a terminal shows: light is drawn, two rows a line.
fn scan(lines: &[&str]) -> String {
    let rows: Vec<Vec<char>> = lines.iter().map(|line| line.chars().collect()).collect();
    let side = rows[0].len() - 2 * QUIET;
    let code = rqrr::SimpleGrid::from_func(side, |x, y| {
        let (x, y) = (x + QUIET, y + QUIET);
        let drawn = if y % 2 == 0 { '▀' } else { '▄' };
        ![drawn, '█'].contains(&rows[y / 2][x])
    });
    rqrr::Grid::new(code).decode().unwrap().1
}

/// What the code in a PNG file says.
fn scan_png(file: &std::path::Path) -> String {
    let bytes = fs::read(file).unwrap();
    let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let (width, height) = (info.width as usize, info.height as usize);
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, |x, y| {
        pixels[y * info.line_size + x]
    });
    image.detect_grids()[0].decode().unwrap().1
}

#[test]
fn a_phone_that_scans_the_code_reaches_a_node_behind_its_gateway() {
    let row = Row::new("leaf scans");
    let image = row.phone.directory().join("phone.png");
    let told = row.run(&format!(
        "wg add phone --endpoint {} --qr --png {}",
        row.endpoint,
        image.display()
    ));
    let (text, code) = told.split_once("\n\n█").unwrap();
    let text = format!("{text}\n");
    let code = format!("█{code}");
    let scanned = scan(&code.lines().collect::<Vec<_>>());
    assert_eq!(scanned, text);
    assert_eq!(scan_png(&image), text);

    let device = WireGuard::from_quick_configuration(&row.phone, &scanned);
    let far = row.far.address();
    wait_until(secs(10), "the phone reaches the far node", || {
        row.phone.ping(far)
    });
    assert!(device.last_handshake() > 0);
    let served = SocketAddr::new(far.into(), 7001);
    let _server = traffic::tcp_serve(row.far.host(), served);
    traffic::tcp_send(&row.phone, served, 4, 2_000_000).unwrap();

    let status = row.run("status");
    let line = status.lines().find(|line| line.starts_with("phone "));
    let line = line.unwrap_or_else(|| panic!("{status}"));
    assert!(line.contains("leaf (stock, not end-to-end)"), "{status}");

    // The key is nowhere but on the screen, in the image and on the phone.
    let secret = &device.key().private;
    assert!(!row.run("wg list --json").contains(secret.as_str()));
    let mut directories = vec![row.gateway.host().directory().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.is_file() {
                let content = fs::read(&path).unwrap();
                let content = String::from_utf8_lossy(&content);
                assert!(!content.contains(secret.as_str()), "{}", path.display());
            }
        }
    }
}

#[test]
fn a_device_with_a_key_of_its_own_needs_only_the_gateways() {
    let row = Row::new("leaf own key");
    let key = Key::generate(&row.phone);
    let text = row.run(&format!(
        "wg add phone --endpoint {} --public-key {}",
        row.endpoint, key.public
    ));
    let own = format!("\nPrivateKey = {}\n", key.private);
    let text = text.replace("\n# PrivateKey = the one the device has made\n", &own);
    let device = WireGuard::from_quick_configuration(&row.phone, &text);
    wait_until(secs(10), "the phone reaches the far node", || {
        row.phone.ping(row.far.address())
    });
    assert_eq!(device.key().public, key.public);
    assert!(device.last_handshake() > 0);
}
