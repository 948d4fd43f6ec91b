//! A second reader of HTTP/1, by the letter of RFC 9112, slow and from scratch: it knows whole input only.

/// A head as it says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The first line's three parts.
    pub(super) start: [Vec<u8>; 3],
    pub(super) fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of it.
    pub(super) len: usize,
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

fn trim(text: &[u8]) -> &[u8] {
    let is_space = |b: &u8| *b == b' ' || *b == b'\t';
    let start = text.iter().position(|b| !is_space(b)).unwrap_or(text.len());
    let end = text.iter().rposition(|b| !is_space(b)).map_or(start, |at| at + 1);
    &text[start..end]
}

/// The lines up to the empty one, and the bytes of all that. `None`: there is no empty line, or a line does not end with CR LF.
fn lines(input: &[u8]) -> Option<(Vec<&[u8]>, usize)> {
    let (mut lines, mut at) = (vec![], 0);
    loop {
        let end = at + input[at..].windows(2).position(|pair| pair == b"\r\n")?;
        let line = &input[at..end];
        if line.contains(&b'\n') || line.contains(&b'\r') {
            return None;
        }
        at = end + 2;
        if line.is_empty() {
            return Some((lines, at));
        }
        lines.push(line);
    }
}

/// The head that the input begins with; a response's reason may be missing with its space. `None` if it is none.
pub(super) fn head(input: &[u8]) -> Option<Head> {
    // Empty lines before a request (section 2.2).
    let skipped = input.windows(2).step_by(2).take_while(|pair| *pair == b"\r\n").count() * 2;
    let (lines, len) = lines(&input[skipped..])?;
    let (first, fields) = lines.split_first()?;
    let mut parts = first.splitn(3, |b| *b == b' ').map(<[u8]>::to_vec);
    let start = [parts.next()?, parts.next()?, parts.next().unwrap_or_default()];
    let mut read = vec![];
    for line in fields {
        let colon = line.iter().position(|b| *b == b':')?;
        let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
        if !is_token(name) || value.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
            return None;
        }
        read.push((name.to_ascii_lowercase(), value.to_vec()));
    }
    Some(Head { start, fields: read, len: skipped + len })
}

impl Head {
    pub(super) fn all(&self, name: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(own, _)| own == name.as_bytes()).map(|(_, value)| &value[..]).collect()
    }
}

/// A chunked body: its data and its bytes. `Ok(None)`: it is right as far as it goes, and more is to come.
pub(super) fn chunked(input: &[u8]) -> Result<Option<(Vec<u8>, usize)>, ()> {
    let (mut data, mut at) = (vec![], 0);
    loop {
        let Some(end) = input[at..].iter().position(|b| *b == b'\n').map(|end| at + end) else {
            return Ok(None);
        };
        let line = input[at..end].strip_suffix(b"\r").ok_or(())?;
        if line.contains(&b'\r') {
            return Err(());
        }
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let rest = trim(&line[digits..]);
        if digits == 0 || !(rest.is_empty() || rest[0] == b';') {
            return Err(());
        }
        let size = std::str::from_utf8(&line[..digits]).map_err(drop)?;
        let size = usize::from_str_radix(size, 16).map_err(drop)?;
        at = end + 1;
        if size == 0 {
            let Some((_, len)) = lines(&input[at..]) else {
                return if input[at..].is_empty() { Ok(None) } else { Err(()) };
            };
            return Ok(Some((data, at + len)));
        }
        let Some(chunk) = at.checked_add(size).and_then(|end| input.get(at..end)) else { return Ok(None) };
        data.extend_from_slice(chunk);
        at += size;
        match &input[at..] {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => at += 2,
            _ => return Err(()),
        }
    }
}
