//! The two tables of HPACK (RFC 7541 section 2.3).

use std::collections::VecDeque;

use super::FIELD_OVERHEAD;

/// What was inserted: the newest first, by its age.
#[derive(Debug)]
pub(super) struct Table {
    /// The text of the entries, one behind the other, and of some that were evicted before them.
    text: Vec<u8>,
    /// From the oldest to the newest.
    entries: VecDeque<Entry>,
    /// What the entries count for.
    size: usize,
    capacity: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: usize,
    name: usize,
    value: usize,
}

impl Entry {
    const fn cost(self) -> usize {
        self.name + self.value + FIELD_OVERHEAD
    }
}

impl Table {
    /// An empty one, which holds no memory.
    pub(super) fn new(capacity: usize) -> Self {
        Self { text: Vec::new(), entries: VecDeque::new(), size: 0, capacity }
    }

    /// The name and value of the entry after which `age` others were inserted.
    pub(super) fn entry(&self, age: usize) -> Option<(&[u8], &[u8])> {
        let place = self.entries.len().checked_sub(age.checked_add(1)?)?;
        let Entry { start, name, value } = *self.entries.get(place)?;
        let (name, rest) = self.text.get(start..start + name + value)?.split_at_checked(name)?;
        Some((name, rest))
    }

    /// Makes it as large as that; what has no room any more is evicted.
    pub(super) fn resize(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.evict(0);
    }

    /// Inserts an entry; the oldest make room. One that is larger than the table leaves it empty (section 4.4).
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) {
        let entry = Entry { start: 0, name: name.len(), value: value.len() };
        self.evict(entry.cost());
        if entry.cost() > self.capacity {
            return;
        }
        self.compact();
        self.entries.push_back(Entry { start: self.text.len(), ..entry });
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        self.size += entry.cost();
    }

    fn evict(&mut self, needed: usize) {
        while self.size + needed > self.capacity
            && let Some(oldest) = self.entries.pop_front()
        {
            self.size -= oldest.cost();
        }
    }

    /// Forgets the text of evicted entries once it is as much as the table may hold: each byte is moved once for each that
    /// comes.
    fn compact(&mut self) {
        let dead = self.entries.front().map_or(self.text.len(), |oldest| oldest.start);
        if dead >= super::TABLE || dead == self.text.len() {
            self.text.drain(..dead);
            for entry in &mut self.entries {
                entry.start -= dead;
            }
        }
    }
}

/// RFC 7541 appendix A; the first has index 1.
#[rustfmt::skip]
pub(super) static STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];
