//! The Huffman code of field strings (RFC 7541 appendix B).
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, so the lengths say all.

use super::Malformed;

/// Appends what `coded` stands for.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut input = coded.iter();
    // The next bits, from the highest on.
    let (mut bits, mut count) = (0_u64, 0_u32);
    loop {
        while count <= 56
            && let Some(byte) = input.next()
        {
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        let Some((symbol, length)) = next(bits, count) else {
            // What is left is less than a byte of ones, or there is nothing that it could be.
            let ones = count < 8 && bits.leading_ones() >= count;
            return if ones { Ok(()) } else { Err(Malformed) };
        };
        // The end of the string is never written out.
        out.push(u8::try_from(symbol).map_err(|_| Malformed)?);
        bits <<= length;
        count -= length;
    }
}

/// The symbol that the bits begin with, and its length.
fn next(bits: u64, count: u32) -> Option<(u16, u32)> {
    // Most text is in codes of eight bits and fewer.
    let (symbol, length) = SHORT[usize::from(bits.to_be_bytes()[0])];
    if length > 0 {
        let length = u32::from(length);
        return (length <= count).then_some((u16::from(symbol), length));
    }
    for (index, class) in CLASSES.iter().enumerate().skip(9) {
        let length = u32::try_from(index).ok()?;
        if length > count {
            return None;
        }
        let code = u32::try_from(bits >> (64 - length)).ok()?;
        let place = code.wrapping_sub(class.first);
        if place < class.count {
            return Some((SYMBOLS[(class.start + place) as usize], length));
        }
    }
    None
}

/// By the next eight bits: the symbol whose code they begin with and its length, which is 0 where that is longer.
static SHORT: [(u8, u8); 256] = short();

#[expect(clippy::cast_possible_truncation, reason = "lengths are below 9, and their symbols below 128")]
const fn short() -> [(u8, u8); 256] {
    let mut short = [(0, 0); 256];
    let (classes, symbols) = (classes(), symbols());
    let mut length = 5;
    while length <= 8 {
        let class = classes[length];
        let mut place = 0;
        while place < class.count {
            let (first, many) = ((class.first + place) << (8 - length), 1 << (8 - length));
            let mut bits = first;
            while bits < first + many {
                short[bits as usize] = (symbols[(class.start + place) as usize] as u8, length as u8);
                bits += 1;
            }
            place += 1;
        }
        length += 1;
    }
    short
}

/// The codes of one length.
#[derive(Clone, Copy)]
struct Class {
    /// The first code.
    first: u32,
    /// How many there are.
    count: u32,
    /// Where their symbols begin in [`SYMBOLS`].
    start: u32,
}

/// By length.
static CLASSES: [Class; 31] = classes();
/// By length, then by number.
static SYMBOLS: [u16; 257] = symbols();

const fn classes() -> [Class; 31] {
    let mut classes = [Class { first: 0, count: 0, start: 0 }; 31];
    let mut symbol = 0;
    while symbol < LENGTHS.len() {
        classes[LENGTHS[symbol] as usize].count += 1;
        symbol += 1;
    }
    let (mut length, mut code, mut start) = (1, 0, 0);
    while length < classes.len() {
        code <<= 1;
        classes[length].first = code;
        classes[length].start = start;
        code += classes[length].count;
        start += classes[length].count;
        length += 1;
    }
    classes
}

#[expect(clippy::cast_possible_truncation, reason = "there are 257 symbols")]
const fn symbols() -> [u16; 257] {
    let mut symbols = [0; 257];
    let (mut length, mut at) = (1, 0);
    while length < 31 {
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                symbols[at] = symbol as u16;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    symbols
}

/// The bits of each symbol's code; the last is the end of the string.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6,
    6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8,
    13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15,
    11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23,
    23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26,
    26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21,
    22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27,
    27, 26, 30,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(coded: &[u8], expect: Option<&str>) {
        let mut out = Vec::new();
        let decoded = decode(coded, &mut out).ok().map(|()| String::from_utf8(out).unwrap());
        assert_eq!(decoded.as_deref(), expect, "{coded:x?}");
    }

    #[test]
    fn the_examples_of_the_standard() {
        check(
            &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff],
            Some("www.example.com"),
        );
        check(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], Some("no-cache"));
        check(&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf], Some("custom-value"));
        check(&[], Some(""));
    }

    #[test]
    fn padding_is_short_and_all_ones() {
        check(&[0x1f], Some("a"));
        check(&[0x1e], None);
        check(&[0x1f, 0xff], None);
        check(&[0xff], None);
        check(&[0xff, 0xff, 0xff, 0xff], None);
    }
}
