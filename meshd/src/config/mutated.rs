//! Ten thousand configurations that somebody might have got by a slip of the hand, or by malice.

use super::*;
use crate::testdata;

/// How many are tried.
const COUNT: u64 = 10_000;
/// What is put in and what other words are replaced with.
const WORDS: [&str; 26] = [
    "[",
    "]",
    "[[",
    "\"",
    "'",
    "'''",
    "=",
    "{",
    "}",
    "#",
    "\\u0000",
    "\u{0}",
    "\u{feff}",
    "ß",
    "-1",
    "0",
    "65536",
    "18446744073709551616",
    "nan",
    "true",
    "[::]:0",
    "::/0",
    "1979-05-27",
    "\r",
    "\n[[peers]]\n",
    "\n[node]\n",
];

/// Numbers that the seed determines (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let roll = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        usize::try_from(roll % limit as u64).unwrap()
    }

    /// A place between two characters.
    fn place(&mut self, text: &str) -> usize {
        let place = self.below(text.len() + 1);
        (0..=place)
            .rev()
            .find(|&place| text.is_char_boundary(place))
            .unwrap()
    }

    /// A span of up to `longest` bytes.
    fn span(&mut self, text: &str, longest: usize) -> std::ops::Range<usize> {
        let start = self.place(text);
        let end = start + self.below(longest);
        let end = (start..=end.min(text.len()))
            .rev()
            .find(|&place| text.is_char_boundary(place))
            .unwrap();
        start..end
    }
}

/// A configuration that says something in every table.
fn whole() -> String {
    let uncommented: String = TEMPLATE
        .lines()
        .map(|line| {
            let key = line.strip_prefix('#').filter(|rest| {
                rest.starts_with(|first: char| first.is_ascii_lowercase() || first == '[')
            });
            key.unwrap_or(line).to_owned() + "\n"
        })
        .collect();
    let key = |n| testdata::identity(n).node().public_key().to_string();
    format!(
        "{uncommented}\n[[peers]]\nname = \"b\"\npublic_key = \"{}\"\nendpoint = [\"b.example.org:51860\", \"[2001:db8::1]:7\"]\n\n\
         [[wireguard.stock]]\nname = \"phone\"\npublic_key = \"{}\"\n",
        key(1),
        key(2)
    )
}

fn mutate(whole: &str, dice: &mut Dice) -> String {
    let mut text = whole.to_owned();
    for _ in 0..=dice.below(4) {
        let span = dice.span(&text, 40);
        match dice.below(6) {
            0 => text.replace_range(span, ""),
            1 => text.insert_str(span.start, WORDS[dice.below(WORDS.len())]),
            2 => text.replace_range(span, WORDS[dice.below(WORDS.len())]),
            3 => {
                let copied = text[span].to_owned();
                let place = dice.place(&text);
                text.insert_str(place, &copied);
            }
            4 => text.truncate(span.start),
            _ => text.insert_str(span.start, &WORDS[dice.below(WORDS.len())].repeat(300)),
        }
    }
    text
}

#[test]
fn mutated_configurations_are_accepted_or_refused_by_line_and_never_panic() {
    let whole = whole();
    let source = Source {
        path: "meshd.toml".into(),
        state_dir: None,
        socket: None,
    };
    let own = testdata::identity(0).node();
    let mut refused = 0;
    for seed in 1..=COUNT {
        let text = mutate(
            &whole,
            &mut Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
        );
        let outcome = std::panic::catch_unwind(|| source.check(&text, Some(own)));
        let Err(error) = outcome.unwrap_or_else(|_| panic!("seed {seed} made it panic:\n{text:?}"))
        else {
            continue;
        };
        refused += 1;
        for line in error.to_string().lines() {
            let number = line
                .strip_prefix("meshd.toml:")
                .and_then(|rest| rest.split(':').next());
            let number = number.and_then(|number| number.parse::<usize>().ok());
            assert!(
                number.is_some_and(|number| (1..=text.lines().count() + 1).contains(&number)),
                "seed {seed}: no line in {line:?} of {error}\n{text}"
            );
        }
    }
    assert!(
        (COUNT / 4..COUNT).contains(&refused),
        "{refused} of {COUNT} were refused"
    );
}
