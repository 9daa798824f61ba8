//! A text as a QR code (ISO/IEC 18004), for terminals, as PNG and as SVG.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use qrcode::render::svg;
use qrcode::types::QrError;
use qrcode::{Color, EcLevel};
use zeroize::Zeroizing;

/// Light modules that have to be around the code.
const QUIET: usize = 4;
/// Pixels of an image for each module, both ways.
const SCALE: usize = 8;

/// A QR code.
pub(super) struct QrCode(qrcode::QrCode);

/// What the modules of a code look like on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    /// As the terminal has it, which should be light on dark.
    Plain,
    /// White on black, whatever the terminal's own colours are.
    Coloured,
}

/// A file for an image of a code. Its content is as secret as the text: nobody but its owner may read it.
#[derive(Debug)]
pub(super) struct ImageFile {
    path: PathBuf,
    file: File,
    format: Format,
}

/// A format of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// PNG, one bit a pixel.
    Png,
    /// SVG.
    Svg,
}

impl QrCode {
    /// The smallest code that holds the text, with the least redundancy: it is read from a screen.
    ///
    /// # Errors
    /// The text is longer than the largest code holds (2,953 bytes).
    pub(super) fn new(text: &str) -> Result<Self, QrError> {
        qrcode::QrCode::with_error_correction_level(text, EcLevel::L).map(Self)
    }

    /// Whether there is a dark module at this place of the code with its quiet zone.
    fn is_dark(&self, x: usize, y: usize) -> bool {
        let inside = QUIET..QUIET + self.0.width();
        inside.contains(&x) && inside.contains(&y) && self.0[(x - QUIET, y - QUIET)] == Color::Dark
    }

    /// Modules of a side, with the quiet zone.
    fn side(&self) -> usize {
        self.0.width() + 2 * QUIET
    }

    /// Lines of text, each of two rows of modules: what is light is drawn.
    pub(super) fn terminal(&self, ink: Ink) -> Zeroizing<String> {
        let (before, after) = match ink {
            Ink::Plain => ("", ""),
            Ink::Coloured => ("\x1b[97;40m", "\x1b[0m"),
        };
        let side = self.side();
        let mut text = Zeroizing::new(String::with_capacity((side * 3 + 16) * side.div_ceil(2)));
        for y in (0..side).step_by(2) {
            text.push_str(before);
            for x in 0..side {
                let lower = y + 1 >= side || self.is_dark(x, y + 1);
                text.push(match (self.is_dark(x, y), lower) {
                    (true, true) => ' ',
                    (true, false) => '▄',
                    (false, true) => '▀',
                    (false, false) => '█',
                });
            }
            text.push_str(after);
            text.push('\n');
        }
        text
    }

    fn write_png(&self, out: impl Write) -> io::Result<()> {
        let side = self.side() * SCALE;
        let pixels = u32::try_from(side).map_err(io::Error::other)?;
        let mut encoder = png::Encoder::new(out, pixels, pixels);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::One);
        let mut bits = Zeroizing::new(vec![0; side * side.div_ceil(8)]);
        for (row, line) in bits.chunks_mut(side.div_ceil(8)).enumerate() {
            for column in 0..side {
                if !self.is_dark(column / SCALE, row / SCALE) {
                    line[column / 8] |= 0x80 >> (column % 8);
                }
            }
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&bits)?;
        Ok(writer.finish()?)
    }

    fn svg(&self) -> Zeroizing<String> {
        let scale = SCALE as u32;
        let mut renderer = self.0.render::<svg::Color<'_>>();
        Zeroizing::new(renderer.module_dimensions(scale, scale).build())
    }
}

impl fmt::Debug for QrCode {
    /// Hides what it says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QrCode").finish_non_exhaustive()
    }
}

impl ImageFile {
    /// A new file, empty.
    ///
    /// # Errors
    /// There is one of that name, or none can be made.
    pub(super) fn create(path: &Path, format: Format) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            format,
        })
    }

    /// Writes the image.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(&mut self, code: &QrCode) -> io::Result<()> {
        match self.format {
            Format::Png => code.write_png(&mut self.file)?,
            Format::Svg => self.file.write_all(code.svg().as_bytes())?,
        }
        self.file.sync_all()
    }

    /// Takes the file away again.
    pub(super) fn discard(self) {
        // Whoever made it has a better error to tell.
        let _ = fs::remove_file(&self.path);
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use rqrr::{Grid, PreparedImage, SimpleGrid};

    use super::*;

    const TEXT: &str = "[Interface]\nPrivateKey = WMuTFMkqmUhIjjOZ2SXlNfnFKZ6zDjbBF8Kl+1Xw2WE=\nAddress = 664::1/128\n";

    /// What a code says, of which `is_dark` tells one module.
    fn read(side: usize, is_dark: impl Fn(usize, usize) -> bool) -> String {
        Grid::new(SimpleGrid::from_func(side, is_dark))
            .decode()
            .unwrap()
            .1
    }

    #[test]
    fn what_a_terminal_shows_reads_as_the_text() {
        let code = QrCode::new(TEXT).unwrap();
        let text = code.terminal(Ink::Plain);
        let lines: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
        let side = lines[0].len();
        assert!(lines.iter().all(|line| line.len() == side));
        let told = read(side - 2 * QUIET, |x, y| {
            let (x, y) = (x + QUIET, y + QUIET);
            let dark: &[char] = if y % 2 == 0 {
                &[' ', '▄']
            } else {
                &[' ', '▀']
            };
            dark.contains(&lines[y / 2][x])
        });
        assert_eq!(told, TEXT);
        let coloured = code.terminal(Ink::Coloured);
        let bare = coloured.replace("\x1b[97;40m", "").replace("\x1b[0m", "");
        assert_eq!(bare, *text);
    }

    #[test]
    fn a_png_reads_as_the_text() {
        let mut bytes = Vec::new();
        QrCode::new(TEXT).unwrap().write_png(&mut bytes).unwrap();
        let mut reader = png::Decoder::new(io::Cursor::new(bytes))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!(info.bit_depth, png::BitDepth::One);
        let side = info.width as usize;
        let is_light = |x: usize, y: usize| pixels[y * info.line_size + x / 8] << (x % 8) & 0x80;
        let mut image = PreparedImage::prepare_from_greyscale(side, side, |x, y| {
            if is_light(x, y) == 0 { 0 } else { 255 }
        });
        let grids = image.detect_grids();
        assert_eq!(grids[0].decode().unwrap().1, TEXT);
    }

    #[test]
    fn an_svg_reads_as_the_text() {
        let code = QrCode::new(TEXT).unwrap();
        let svg = code.svg();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let attribute = |element: &str, name: &str| -> String {
            let node = document
                .descendants()
                .find(|node| node.has_tag_name(("http://www.w3.org/2000/svg", element)));
            node.and_then(|node| node.attribute(name))
                .unwrap()
                .to_owned()
        };
        let width: usize = attribute("rect", "width").parse().unwrap();
        // M x y h width v height H x V y, for each rectangle.
        let drawn = attribute("path", "d");
        let rectangles: Vec<[usize; 4]> = drawn
            .split('M')
            .skip(1)
            .map(|one| {
                let numbers: Vec<usize> = one
                    .split(|c: char| !c.is_ascii_digit())
                    .map(|number| number.parse().unwrap())
                    .collect();
                [numbers[0], numbers[1], numbers[2], numbers[3]]
            })
            .collect();
        let told = read(width / SCALE - 2 * QUIET, |x, y| {
            let at = [x, y].map(|module| (module + QUIET) * SCALE + SCALE / 2);
            rectangles.iter().any(|[left, top, width, height]| {
                (*left..left + width).contains(&at[0]) && (*top..top + height).contains(&at[1])
            })
        });
        assert_eq!(told, TEXT);
    }

    #[test]
    fn a_file_is_its_owners_alone_and_none_is_written_over() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("phone.svg");
        let mut file = ImageFile::create(&path, Format::Svg).unwrap();
        let again = ImageFile::create(&path, Format::Png).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        file.write(&QrCode::new(TEXT).unwrap()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        file.discard();
        assert!(!path.exists());
    }

    #[test]
    fn what_no_code_holds_is_refused() {
        assert!(QrCode::new(&"x".repeat(2953)).is_ok());
        assert!(QrCode::new(&"x".repeat(2954)).is_err());
    }
}
