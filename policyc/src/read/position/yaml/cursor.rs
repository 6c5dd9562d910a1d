//! A place in a YAML text that moves from token to token. The text has been read by a real reader,
//! so this only has to tell where the next token begins, never whether it may.

use std::ops::Range;

use crate::read::yaml;

pub struct Cursor<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Cursor<'t> {
    pub fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    /// Moves behind the next scalar, which is `part` where that was borrowed from the text.
    pub fn scalar(&mut self, part: Option<&str>) -> Range<usize> {
        let start = self.next_token();
        let borrowed = part.and_then(|part| self.borrowed(part));
        // A part that lies behind was reached through an alias; the alias itself is the place.
        let span = match borrowed.filter(|span| span.start >= self.at) {
            Some(span) => span,
            None => start..self.end_of_token(start),
        };
        self.at = match self.byte(span.start) {
            Some(b'|' | b'>') if part.is_none() => self.end_of_block(&span),
            _ => span.end,
        };
        span
    }

    /// Moves behind the beginning of a collection: its bracket, or the alias that stands for it. A
    /// collection without brackets begins with its first item.
    pub fn collection(&mut self) -> Range<usize> {
        let start = self.next_token();
        let span = match self.byte(start) {
            Some(b'[' | b'{') => start..start + 1,
            Some(b'*') => start..self.end_of_token(start),
            _ => return start..start,
        };
        self.at = span.end;
        span
    }

    /// Moves behind the dash of a list's next item, if it has one.
    pub fn item(&mut self) {
        let at = self.next_token();
        if self.byte(at) == Some(b'-') && self.is_blank(at + 1) {
            self.at = at + 1;
        }
    }

    /// Whether a token is an alias: nothing else begins with a star without quotes.
    pub fn is_alias(&self, span: &Range<usize>) -> bool {
        self.byte(span.start) == Some(b'*')
    }

    /// Where a borrowed part is, its quotes included.
    pub fn borrowed(&self, part: &str) -> Option<Range<usize>> {
        let span = yaml::range_of(self.text, part)?;
        let quote = self
            .byte(span.end)
            .filter(|_| !yaml::is_plain(self.text, part));
        let before = span.start.checked_sub(1).and_then(|at| self.byte(at));
        Some(match quote.is_some() && before == quote {
            true => span.start - 1..span.end + 1,
            false => span,
        })
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    fn is_blank(&self, at: usize) -> bool {
        self.byte(at).is_none_or(|b| b.is_ascii_whitespace())
    }

    /// The next byte that is neither blank nor comment, anchor, tag, or punctuation. A dash is none
    /// of these: it may begin a list within a list.
    fn next_token(&self) -> usize {
        let mut at = self.at;
        while let Some(byte) = self.byte(at) {
            let comment = byte == b'#' && (at == 0 || self.is_blank(at - 1));
            at = match byte {
                _ if byte.is_ascii_whitespace() => at + 1,
                _ if comment => self.end_of_line(at),
                b',' | b']' | b'}' => at + 1,
                // Between a key in quotes and its value there may be no blank.
                b':' if at == self.at || self.is_blank(at + 1) => at + 1,
                b'?' if self.is_blank(at + 1) => at + 1,
                b'&' | b'!' => self.end_of_word(at),
                _ => return at,
            };
        }
        at
    }

    fn end_of_line(&self, at: usize) -> usize {
        let end = self.text[at..].find(['\n', '\r']);
        end.map_or(self.text.len(), |length| at + length)
    }

    fn end_of_word(&self, at: usize) -> usize {
        let end = self.text[at..].find(|c: char| c.is_ascii_whitespace() || ",]}".contains(c));
        // At least one byte, so that every loop comes to its end; `&` and `!` are one.
        end.map_or(self.text.len(), |length| at + length.max(1))
    }

    fn end_of_token(&self, start: usize) -> usize {
        match self.byte(start) {
            Some(b'"') => self.end_of_quoted(start, '"'),
            Some(b'\'') => self.end_of_quoted(start, '\''),
            Some(b'*') => self.end_of_word(start),
            Some(_) => start + self.text[start..self.end_of_line(start)].trim_end().len(),
            None => self.text.len(),
        }
    }

    fn end_of_quoted(&self, start: usize, quote: char) -> usize {
        let mut characters = self.text[start + 1..].char_indices().peekable();
        while let Some((at, c)) = characters.next() {
            // A backslash escapes in double quotes, a second quote in single ones.
            let doubled = c == '\'' && characters.peek().is_some_and(|(_, next)| *next == '\'');
            if quote == '"' && c == '\\' || quote == '\'' && doubled {
                characters.next();
            } else if c == quote {
                return start + 1 + at + 1;
            }
        }
        self.text.len()
    }

    /// Behind a block scalar: its lines are deeper than the one that it begins on.
    fn end_of_block(&self, header: &Range<usize>) -> usize {
        let line = self.text[..header.start].rfind('\n').map_or(0, |at| at + 1);
        let indent = indent_of(&self.text[line..]);
        let mut at = header.end;
        for (number, content) in self.text[at..].split_inclusive('\n').enumerate() {
            let deeper = content.trim().is_empty() || indent_of(content) > indent;
            if number > 0 && !deeper {
                break;
            }
            at += content.len();
        }
        at
    }
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}
