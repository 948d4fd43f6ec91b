//! The parsers of HTTP/2, and what is true of each.

use edge::h2::{
    self, Fault, FrameHeader, FrameKind,
    hpack::{self, HpackError},
};

use super::{Target, hpack::Reader, targets::word};

pub(super) const FRAMES: Target = Target {
    name: "h2-frames",
    run: frames,
    words: &[
        b"\0\0\0",
        b"\0\0\x04",
        b"\0\0\x05",
        b"\0\0\x06",
        b"\0\0\x08",
        b"\0\x40\0",
        b"\0\x40\x01",
        b"\0",
        b"\x01",
        b"\x02",
        b"\x03",
        b"\x04",
        b"\x07",
        b"\x08",
        b"\x09",
        b"\x0d",
        b"\x25",
        b"\xff",
        b"\0\0\0\x01",
        b"\x80\0\0\x01",
        b"\x7f\xff\xff\xff",
        b"\0\x05\0\0\x40\0",
    ],
};

fn frames(input: &[u8]) -> String {
    let (mut rest, mut outcome) = (input, String::new());
    for number in 0.. {
        let Some(header) = FrameHeader::read(rest) else { break };
        assert!(header.length < 1 << 24 && header.stream <= h2::MOST);
        let mut out = vec![];
        h2::write_frame_header(&mut out, header.length, header.kind, header.flags, header.stream);
        assert_eq!(FrameHeader::read(&out), Some(header), "written as read");
        let checked = header.check();
        if number < 2 {
            outcome += &format!(
                "{} {} ",
                word(&header.kind),
                checked.map_or_else(|fault| word(&fault), |()| String::new())
            );
        }
        if let Err(Fault::Connection(_)) = checked {
            break;
        }
        let Some(payload) = rest.get(h2::FRAME_HEADER..h2::FRAME_HEADER + header.length) else { break };
        if checked.is_ok() && number < 2 {
            outcome += &payload_of(&header, payload);
        }
        rest = &rest[h2::FRAME_HEADER + payload.len()..];
    }
    format!("{outcome} {}", rest.len().min(3))
}

/// What its reader makes of a payload that was checked.
fn payload_of(header: &FrameHeader, payload: &[u8]) -> String {
    match header.kind {
        FrameKind::Data => h2::data(header, payload).map_or_else(
            |fault| word(&fault),
            |data| {
                assert!(data.len() <= payload.len());
                (data.len() == payload.len()).to_string()
            },
        ),
        FrameKind::Headers => h2::headers(header, payload).map_or_else(
            |fault| word(&fault),
            |frame| {
                assert!(frame.fragment.len() <= payload.len());
                frame.depends_on_itself.to_string()
            },
        ),
        FrameKind::Priority => word(&h2::priority(header, payload)),
        FrameKind::WindowUpdate => h2::window_update(header, payload).map_or_else(
            |fault| word(&fault),
            |increment| {
                assert!((1..=h2::MOST).contains(&increment));
                String::new()
            },
        ),
        FrameKind::Settings => h2::Settings::read(payload).map_or_else(
            |code| word(&code),
            |settings| {
                assert!(settings.initial_window.is_none_or(|window| window <= h2::MOST));
                format!("{} {}", settings.initial_window.is_some(), settings.max_frame.is_some())
            },
        ),
        FrameKind::GoAway => h2::goaway(payload).is_some().to_string(),
        FrameKind::Reset => h2::reset(payload).is_some().to_string(),
        FrameKind::Ping | FrameKind::PushPromise | FrameKind::Continuation | FrameKind::Unknown => {
            String::new()
        }
    }
}

/// Blocks of a connection, each with its length before it in one byte.
pub(super) const BLOCKS: Target = Target {
    name: "h2-blocks",
    run: blocks,
    words: &[
        b"\x01\x82",
        b"\x82",
        b"\xbe",
        b"\xbf",
        b"\xc0",
        b"\xff\0",
        b"\x40\x01a\x01b",
        b"\x41\x04test",
        b"\x7e\x01c",
        b"\x0f\x2f\x01d",
        b"\x1f\x80\x01\x01e",
        b"\0\x01x\x81\x1f",
        b"\0\x82\xff\xff\x01y",
        b"\x20",
        b"\x3f\x09",
        b"\x3f\xe1\x1f",
        b"\x3f\xe2\x1f",
        b"\x7f\x80\x80\x80\x80\x01",
        b"\x8a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ],
};

fn blocks(input: &[u8]) -> String {
    let limits = hpack::SectionLimits { fields: 20, bytes: 2000 };
    let (mut ours, mut theirs) = (hpack::Decoder::default(), Reader::new());
    let mut lines = hpack::FieldLines::default();
    let (mut rest, mut outcome) = (input, String::new());
    while let Some((&length, behind)) = rest.split_first() {
        let (block, behind) = behind.split_at(behind.len().min(length.into()));
        rest = behind;
        let expected = theirs.read(block);
        let read = ours.decode(block, limits, &mut lines);
        match (&read, expected) {
            (Err(HpackError::Malformed), None) => return format!("{outcome} malformed"),
            (Ok(()), Some(expected)) => {
                let read: Vec<_> =
                    lines.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
                assert_eq!(read, expected);
                rewritten(&read);
                if outcome.len() < 8 {
                    outcome += &format!("{} ", read.len().min(5));
                }
            }
            // What is too much was read to its end all the same: the blocks behind it show.
            (Err(HpackError::TooManyFields), Some(expected)) => assert!(expected.len() > 20),
            (Err(HpackError::TooLarge), Some(expected)) => assert!(cost(&expected) > 2000),
            // Whatever the rest of it is.
            (Err(HpackError::Bomb), _) => return format!("{outcome} bomb"),
            (read, expected) => panic!("{read:?}, but {expected:?}"),
        }
    }
    outcome
}

fn cost(fields: &[(Vec<u8>, Vec<u8>)]) -> usize {
    fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
}

/// What we write is read as it was by both.
fn rewritten(fields: &[(Vec<u8>, Vec<u8>)]) {
    let mut block = vec![];
    hpack::Encoder::default().begin(&mut block);
    for (name, value) in fields {
        hpack::write_field(&mut block, name, value);
    }
    let lowercase: Vec<_> =
        fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    assert_eq!(Reader::new().read(&block), Some(lowercase));
}
