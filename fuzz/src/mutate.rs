//! Seeded mutations: the same seed gives the same inputs on any machine.

use crate::MAX_INPUT;

/// Makes new inputs from a corpus.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
}

/// Values at which lengths, counts and delimiters go wrong.
const EDGES: [u8; 16] = [
    0, 1, 0x7f, 0x80, 0xff, b'\r', b'\n', b' ', b'\t', b':', b',', b';', b'"', b'0', b'-', b'/',
];

impl Mutator {
    /// `seed` decides everything that follows.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed | 1 }
    }

    /// xorshift64*: small, fast and good enough to pick places.
    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `bound`; 0 for a bound of 0.
    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    fn edge(&mut self) -> u8 {
        let at = self.below(EDGES.len());
        EDGES.get(at).copied().unwrap_or(0)
    }

    /// A changed copy of one of `corpus`, with pieces of others.
    pub fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let pick = self.below(corpus.len());
        let mut data = corpus.get(pick).cloned().unwrap_or_default();
        for _ in 0..=self.below(4) {
            self.step(&mut data, corpus);
        }
        data.truncate(MAX_INPUT);
        data
    }

    fn step(&mut self, data: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(data.len() + 1);
        let end = at + self.below(data.len() - at + 1).min(64);
        match self.below(8) {
            0 => {
                let bit = 1 << self.below(8);
                if let Some(byte) = data.get_mut(at) {
                    *byte ^= bit;
                }
            }
            1 => {
                let edge = self.edge();
                if let Some(byte) = data.get_mut(at) {
                    *byte = edge;
                }
            }
            2 => {
                let edge = self.edge();
                data.insert(at, edge);
            }
            3 => {
                data.drain(at..end);
            }
            4 => data.truncate(at),
            5 => {
                // Repetition finds limits: of headers, of nesting, of digits.
                let piece = data.get(at..end).unwrap_or_default().to_vec();
                let times = 1 << self.below(9);
                let more: Vec<u8> = piece.repeat(times).into_iter().take(MAX_INPUT).collect();
                data.splice(at..at, more);
            }
            6 => {
                let pick = self.below(corpus.len());
                let other = corpus.get(pick).map(Vec::as_slice).unwrap_or_default();
                let from = self.below(other.len() + 1);
                let piece = other.get(from..).unwrap_or_default().to_vec();
                data.splice(at..end, piece);
            }
            _ => {
                // A number in the text becomes a huge one.
                if let Some(digit) = data.iter().skip(at).position(u8::is_ascii_digit) {
                    let run = vec![b'9'; 1 + self.below(24)];
                    data.splice(at + digit..=at + digit, run);
                }
            }
        }
    }
}
