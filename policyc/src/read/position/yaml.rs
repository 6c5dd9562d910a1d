//! Spans of a YAML document, from an event-level parser.

use std::{borrow::Cow, collections::HashMap, ops::Range};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::{Children, Node, Positions};

/// Collections within collections, as in the reader itself.
const DEPTH_MAX: usize = 128;

pub fn positions(text: &str) -> Positions {
    let mut tree = Tree::new(text);
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else { break };
        if !tree.event(event, span) {
            break;
        }
    }
    Positions { nodes: tree.nodes }
}

struct Tree {
    nodes: Vec<Node>,
    /// Collections that are open, outermost first.
    open: Vec<Open>,
    anchors: HashMap<usize, usize>,
    offsets: Offsets,
}

struct Open {
    node: usize,
    /// The key that waits for its value, in a mapping.
    key: Option<(String, Range<usize>, bool)>,
}

impl Tree {
    fn new(text: &str) -> Self {
        Self {
            nodes: Vec::new(),
            open: Vec::new(),
            anchors: HashMap::new(),
            offsets: Offsets::new(text),
        }
    }

    /// Takes one event; false: stop here.
    fn event(&mut self, event: Event<'_>, span: Span) -> bool {
        let value = self.offsets.range(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => self.scalar(text, style, anchor, tag, value),
            Event::Alias(anchor) => {
                let target = self.anchors.get(&anchor).copied().unwrap_or(0);
                if !self.take_key(String::new(), value.clone(), false) {
                    self.add(value, Children::Alias(target), 0, false);
                }
            }
            Event::SequenceStart(anchor, _) => {
                let node = self.add(value, Children::List(Vec::new()), anchor, false);
                self.open.push(Open { node, key: None });
            }
            Event::MappingStart(anchor, _) => {
                let node = self.add(value, Children::Map(Vec::new()), anchor, false);
                self.open.push(Open { node, key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.open.pop();
            }
            Event::DocumentEnd => return false,
            _ => {}
        }
        self.open.len() <= DEPTH_MAX
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<Cow<'_, Tag>>,
        value: Range<usize>,
    ) {
        let plain = style == ScalarStyle::Plain && tag.is_none();
        if !self.take_key(text.into_owned(), value.clone(), plain) {
            self.add(value, Children::Scalar, anchor, plain);
        }
    }

    /// Keeps a scalar that stands where the innermost mapping wants a key.
    fn take_key(&mut self, text: String, span: Range<usize>, plain: bool) -> bool {
        let Some(open) = self.open.last_mut() else {
            return false;
        };
        let is_map = self
            .nodes
            .get(open.node)
            .is_some_and(|n| matches!(n.children, Children::Map(_)));
        if is_map && open.key.is_none() {
            open.key = Some((text, span, plain));
            return true;
        }
        false
    }

    fn add(
        &mut self,
        value: Range<usize>,
        children: Children,
        anchor: usize,
        plain: bool,
    ) -> usize {
        let index = self.nodes.len();
        let mut node = Node {
            value,
            children,
            plain,
            ..Node::default()
        };
        if let Some(open) = self.open.last_mut() {
            let key = open.key.take();
            match (&mut self.nodes[open.node].children, key) {
                (Children::Map(entries), Some((text, span, plain_key))) => {
                    entries.push((text, index));
                    node.key = Some(span);
                    node.plain_key = plain_key;
                }
                (Children::List(items), _) => items.push(index),
                _ => {}
            }
        }
        if anchor > 0 {
            self.anchors.insert(anchor, index);
        }
        self.nodes.push(node);
        index
    }
}

/// Turns the parser's lines and columns, in characters, into byte offsets. Events come in the order
/// of the text, so a long line is walked once and not once an event.
struct Offsets {
    text: String,
    line_starts: Vec<usize>,
    /// Line, column and byte offset of the last answer.
    last: (usize, usize, usize),
}

impl Offsets {
    fn new(text: &str) -> Self {
        let mut line_starts = vec![0];
        line_starts.extend(text.match_indices('\n').map(|(at, _)| at + 1));
        Self {
            text: text.to_owned(),
            line_starts,
            last: (0, 0, 0),
        }
    }

    fn range(&mut self, span: Span) -> Range<usize> {
        let start = self.offset(span.start);
        start..self.offset(span.end).max(start)
    }

    fn offset(&mut self, marker: Marker) -> usize {
        let line = marker.line().saturating_sub(1);
        let Some(start) = self.line_starts.get(line).copied() else {
            return self.text.len();
        };
        let (from_column, from) = match self.last {
            (l, column, at) if l == line && column <= marker.col() => (column, at),
            _ => (0, start),
        };
        let at = self.text[from..]
            .char_indices()
            .nth(marker.col() - from_column)
            .map_or(self.text.len(), |(at, _)| from + at);
        self.last = (line, marker.col(), at);
        at
    }
}
