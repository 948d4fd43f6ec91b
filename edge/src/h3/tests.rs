use proptest::prelude::*;

use super::{
    qpack::{QpackError, SectionLimits, begin, write_field, write_status},
    *,
};

const LIMITS: SectionLimits = SectionLimits { fields: 100, bytes: 64 << 10 };

fn lines(section: &[u8]) -> Result<Vec<(String, String)>, QpackError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let lines = qpack::decode(section, LIMITS)?;
    Ok(lines.iter().map(|(name, value)| (text(name), text(value))).collect())
}

fn check(section: &[u8], expect: Result<&[(&str, &str)], QpackError>) {
    let owned = |lines: &[(&str, &str)]| -> Vec<(String, String)> {
        lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    assert_eq!(lines(section), expect.map(owned), "{section:x?}");
}

#[test]
fn each_form_of_a_line_is_read() {
    check(&[0, 0], Ok(&[]));
    check(&[0, 0, 0xd1], Ok(&[(":method", "GET")]));
    check(&[0, 0, 0xff, 0x00], Ok(&[(":status", "100")]));
    check(&[0, 0, 0x51, 0x02, b'/', b'a'], Ok(&[(":path", "/a")]));
    check(&[0, 0, 0x7f, 0x02, 0x01, b'1'], Ok(&[(":method", "1")]));
    check(&[0, 0, 0x21, b'x', 0x01, b'y'], Ok(&[("x", "y")]));
    check(&[0, 0, 0x29, 0x1f, 0x81, 0x1f], Ok(&[("a", "a")]));
}

#[test]
fn the_dynamic_table_is_empty() {
    for section in [&[1, 0][..], &[0, 0x80], &[0, 0, 0x80], &[0, 0, 0x40, 0], &[0, 0, 0x10], &[0, 0, 0x00, 0]]
    {
        check(section, Err(QpackError::Malformed));
    }
}

#[test]
fn what_breaks_off_or_is_out_of_bounds_is_refused() {
    for section in [
        &[][..],
        &[0],
        &[0, 0, 0x51],
        &[0, 0, 0x51, 0x05, b'/'],
        &[0, 0, 0xff, 0x24],
        &[0, 0, 0xff],
        &[0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0x27, 0xff, 0xff, 0xff, 0xff, 0x7f],
        &[0, 0, 0x29, 0x00, 0x00],
    ] {
        check(section, Err(QpackError::Malformed));
    }
}

#[test]
fn a_section_is_bounded_by_lines_and_bytes() {
    let mut section = vec![0, 0];
    section.extend([0xd1; 100]);
    assert_eq!(lines(&section).unwrap().len(), 100);
    section.push(0xd1);
    check(&section, Err(QpackError::TooManyFields));

    let sized = |value: usize| {
        let mut section = vec![];
        begin(&mut section);
        write_field(&mut section, b"a", &vec![b'x'; value]);
        lines(&section).map(|lines| lines.len())
    };
    assert_eq!(sized((64 << 10) - 33), Ok(1));
    assert_eq!(sized((64 << 10) - 32), Err(QpackError::TooLarge));
}

#[test]
fn what_is_written_is_read_again() {
    for status in 100..600 {
        let mut section = vec![];
        begin(&mut section);
        write_status(&mut section, status);
        check(&section, Ok(&[(":status", &status.to_string())]));
    }
    let mut section = vec![];
    begin(&mut section);
    let names = ["age", "date", "etag", "link", "vary", "server", "alt-svc", "location", "set-cookie"];
    let more = ["content-type", "accept-ranges", "cache-control", "last-modified", "content-length"];
    let others = ["content-encoding", "x-other", "a-name-longer-than-fits-the-prefix"];
    let all: Vec<_> = names.into_iter().chain(more).chain(others).collect();
    for name in &all {
        write_field(&mut section, name.to_ascii_uppercase().as_bytes(), b"v");
    }
    let expect: Vec<_> = all.iter().map(|name| (*name, "v")).collect();
    check(&section, Ok(&expect));
}

#[test]
fn integers_of_variable_length() {
    for (bytes, value) in [
        (&[0x25][..], 37),
        (&[0x7b, 0xbd], 15_293),
        (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
        (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
    ] {
        assert_eq!(varint(bytes), Some((value, bytes.len())));
        assert_eq!(varint(&bytes[..bytes.len() - 1]), None);
        let mut out = vec![];
        write_varint(&mut out, value);
        assert_eq!(out, bytes);
    }
    assert_eq!(varint(&[0x40, 0x25]), Some((37, 2)), "a longer form than need be is allowed");
}

#[test]
fn settings_are_checked() {
    let mut out = vec![];
    write_settings(&mut out, 65_536);
    let header = frame_header(&out).unwrap();
    assert_eq!((header.kind, header.length), (FrameKind::Settings, (out.len() - header.size) as u64));
    let parsed = Settings::parse(&out[header.size..]);
    assert_eq!(parsed, Ok(Settings { max_field_section: Some(65_536) }));
    for (payload, code) in [
        (&[0x06][..], Code::FrameError),
        (&[0x06, 0x40], Code::FrameError),
        (&[0x06, 1, 0x06, 1], Code::SettingsError),
        (&[0x02, 1], Code::SettingsError),
        (&[0x05, 1], Code::SettingsError),
    ] {
        assert_eq!(Settings::parse(payload), Err(code), "{payload:x?}");
    }
    assert_eq!(Settings::parse(&[0x21, 1, 0x33, 1]), Ok(Settings::default()));
}

#[test]
fn frame_headers_come_whole_or_not_at_all() {
    assert_eq!(frame_header(&[0x01]), None);
    let expect = FrameHeader { kind: FrameKind::Headers, length: 5, size: 2 };
    assert_eq!(frame_header(&[0x01, 0x05, 0xff]), Some(expect));
    assert_eq!(frame_header(&[0x06, 0x00]).unwrap().kind, FrameKind::Reserved);
    assert_eq!(frame_header(&[0x40, 0x21, 0x00]).unwrap().kind, FrameKind::Unknown);
}

proptest! {
    #[test]
    fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _any = qpack::decode(&bytes, LIMITS);
        let _any = frame_header(&bytes);
        let _any = Settings::parse(&bytes);
    }

    #[test]
    fn fields_survive(fields in prop::collection::vec(("[a-z0-9-]{1,200}", prop::collection::vec(any::<u8>(), 0..300)), 0..50)) {
        let mut section = vec![];
        begin(&mut section);
        for (name, value) in &fields {
            write_field(&mut section, name.as_bytes(), value);
        }
        let read = qpack::decode(&section, LIMITS).unwrap();
        let read: Vec<_> = read.iter().map(|(n, v)| (String::from_utf8(n.to_vec()).unwrap(), v.to_vec())).collect();
        prop_assert_eq!(read, fields);
    }
}
