//! Field blocks (RFC 7541).

use super::*;

pub(super) fn all() -> Vec<Case> {
    let works = |what, more: &[u8]| one("hpack 6", what, &[coded(more), get(3)], ok(1));
    let fails = |section, what, more: &[u8]| one(section, what, &[coded(more)], Dies(COMPRESSION));
    let huffman_host = frame(
        HEADERS,
        WHOLE,
        1,
        &[&[0x82, 0x87, 0x84], &block(&[HOST])[..], &[0x7a, 0x82, 0x1c, 0x67]].concat(),
    );
    let insert_then_use = [
        frame(HEADERS, WHOLE, 1, &[&block(GET)[..], b"\x40\x01a\x01b"].concat()),
        frame(HEADERS, WHOLE, 3, &[&block(GET)[..], &[0xbe]].concat()),
    ];
    let all_indexed = [
        frame(HEADERS, WHOLE, 1, &[&[0x82, 0x87, 0x84, 0x41, 6], &b"a.test"[..]].concat()),
        frame(HEADERS, WHOLE, 3, &[0x82, 0x87, 0x84, 0xbe]),
    ];
    vec![
        works("an indexed field", &[0x90]),
        works("a literal to be remembered, with a known name", b"\x7a\x01x"),
        works("a literal to be remembered", b"\x40\x01a\x01b"),
        works("a literal not to be remembered, with a known name", b"\x0f\x2b\x01x"),
        works("a literal not to be remembered", b"\0\x01a\x01b"),
        works("a literal never to be remembered, with a known name", b"\x1f\x2b\x01x"),
        works("a literal never to be remembered", b"\x10\x01a\x01b"),
        works("a name in Huffman's code", b"\0\x81\x1f\x01b"),
        works("a value in Huffman's code", b"\0\x01a\x81\x1f"),
        works("an empty value", b"\0\x01a\0"),
        one("hpack 5.2", "Huffman's code", &[huffman_host], ok(1)),
        one("hpack 2.3.2", "an entry of the dynamic table", &insert_then_use, ok(3)),
        one("hpack 2.3.2", "a request of one byte for each field", &all_indexed, ok(3)),
        one(
            "hpack 4.2",
            "a change of the table's size",
            &[frame(HEADERS, WHOLE, 1, &[&[0x20, 0x3f, 0xe1, 0x1f], &block(GET)[..]].concat())],
            ok(1),
        ),
        one(
            "hpack 4.2",
            "three changes of the table's size",
            &[frame(HEADERS, WHOLE, 1, &[&[0x20, 0x20, 0x20], &block(GET)[..]].concat())],
            Dies(COMPRESSION),
        ),
        fails("hpack 2.3.3", "an index beyond the tables", &[0xff, 0]),
        fails("hpack 2.3.3", "the name of an index beyond the tables", b"\x7f\0\x01x"),
        fails("hpack 4.2", "a change of the table's size behind the fields", &[0x20]),
        fails("hpack 4.2", "a table without room forgets", b"\x20\xbe"),
        fails(
            "hpack 5.1",
            "an integer without end",
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        ),
        fails("hpack 5.2", "padding of more than seven bits", b"\0\x01a\x82\x1f\xff"),
        fails("hpack 5.2", "padding of zeros", b"\0\x01a\x81\x18"),
        fails("hpack 5.2", "the end of a string, coded", b"\0\x01a\x84\xff\xff\xff\xff"),
        fails("hpack 5.2", "a string that is cut off", b"\0\x01a\x7f\x01x"),
        fails("hpack 6.1", "index 0", &[0x80]),
        one(
            "hpack 6.3",
            "a table larger than we allow",
            &[frame(HEADERS, WHOLE, 1, &[&[0x3f, 0xe2, 0x1f], &block(GET)[..]].concat())],
            Dies(COMPRESSION),
        ),
        one(
            "hpack 4.3",
            "a block that is cut off",
            &[frame(HEADERS, WHOLE, 1, &block(GET)[..30])],
            Dies(COMPRESSION),
        ),
        case(
            "hpack 2.3.2",
            "the table is in step behind what was reset",
            vec![
                Send(frame(HEADERS, WHOLE, 1, &[&block(&[METHOD])[..], b"\x40\x01a\x01b"].concat())),
                Resets(1, PROTOCOL),
                Send(frame(HEADERS, WHOLE, 3, &[&block(GET)[..], &[0xbe]].concat())),
                ok(3),
            ],
        ),
        case(
            "10.5.1",
            "a head that is too large is answered, and the next is read",
            vec![
                Send(frame(
                    HEADERS,
                    WHOLE,
                    1,
                    &[&block(GET)[..], &vec![0x90; 2000], b"\x40\x01a\x01b"].concat(),
                )),
                Answers(1, 431),
                Send(frame(HEADERS, WHOLE, 3, &[&block(GET)[..], &[0xbe]].concat())),
                ok(3),
            ],
        ),
    ]
}
