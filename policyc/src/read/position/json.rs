//! Spans of a JSON document. The text has been read by a real JSON reader before, so this scanner
//! only follows its shape; it stops quietly at what it does not expect.

use std::ops::Range;

use super::{Children, Node, Positions};

const DEPTH_MAX: usize = 128;

pub fn positions(text: &str) -> Positions {
    let mut scanner = Scanner {
        text,
        at: 0,
        nodes: Vec::new(),
    };
    scanner.value(None, 0);
    Positions {
        nodes: scanner.nodes,
    }
}

struct Scanner<'t> {
    text: &'t str,
    at: usize,
    nodes: Vec<Node>,
}

impl Scanner<'_> {
    /// Scans one value and returns its node; `None` where the text is not as expected.
    fn value(&mut self, key: Option<Range<usize>>, depth: usize) -> Option<usize> {
        let first = self.peek()?;
        let start = self.at;
        let index = self.nodes.len();
        self.nodes.push(Node {
            key,
            value: start..start + 1,
            ..Node::default()
        });
        if depth > DEPTH_MAX {
            return None;
        }
        match first {
            b'{' => self.map(index, depth)?,
            b'[' => self.list(index, depth)?,
            b'"' => {
                self.string()?;
            }
            _ => self.word(),
        }
        self.nodes[index].value = start..self.at;
        Some(index)
    }

    fn map(&mut self, index: usize, depth: usize) -> Option<()> {
        self.nodes[index].children = Children::Map(Vec::new());
        self.at += 1;
        loop {
            match self.peek()? {
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                b',' | b':' => self.at += 1,
                _ => {
                    let span = self.string()?;
                    let text = serde_json::from_str(&self.text[span.clone()]).ok()?;
                    if self.peek()? != b':' {
                        return None;
                    }
                    self.at += 1;
                    // The entry is known before its value is, so that a value cut short is found.
                    let child = self.nodes.len();
                    if let Children::Map(entries) = &mut self.nodes[index].children {
                        entries.push((text, child));
                    }
                    self.value(Some(span), depth + 1)?;
                }
            }
        }
    }

    fn list(&mut self, index: usize, depth: usize) -> Option<()> {
        self.nodes[index].children = Children::List(Vec::new());
        self.at += 1;
        loop {
            match self.peek()? {
                b']' => {
                    self.at += 1;
                    return Some(());
                }
                b',' => self.at += 1,
                _ => {
                    let child = self.nodes.len();
                    if let Children::List(items) = &mut self.nodes[index].children {
                        items.push(child);
                    }
                    self.value(None, depth + 1)?;
                }
            }
        }
    }

    /// A string with its quotes.
    fn string(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        if self.peek()? != b'"' {
            return None;
        }
        let start = start.max(self.at);
        self.at += 1;
        loop {
            match self.text.as_bytes().get(self.at)? {
                b'\\' => self.at += 2,
                b'"' => {
                    self.at += 1;
                    return Some(start..self.at);
                }
                _ => self.at += 1,
            }
        }
    }

    /// A number, `true`, `false` or `null`.
    fn word(&mut self) {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            if matches!(byte, b',' | b']' | b'}' | b':') || byte.is_ascii_whitespace() {
                return;
            }
            self.at += 1;
        }
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }
}
