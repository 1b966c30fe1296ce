//! Which sequence of the engine holds which tokens, and which tokens several of them share: a radix tree over tokens, whose
//! nodes are cells that exist once.
//!
//! Two sequences share a node only if one was forked from the other, for only then do they share cells. So nodes beside
//! each other may begin with the same tokens, where they were computed twice.

use std::time::Instant;

use wattle_engine::tokens::{SequenceId, Token};

/// A place among the nodes.
type NodeId = usize;

/// Cells for each unit of which a later one is worth as much again: attention makes it dearer to compute.
const DEARER_AFTER: f64 = 2048.0;
/// What was used just now is no more likely to be used than what was used so many seconds ago.
const RECENT_SECONDS: f64 = 10.0;
/// Cells that are given up at once of a longer run.
const EVICTED_AT_ONCE: u32 = 64;

/// The tokens of all sequences.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Option<Node>>,
    roots: Vec<NodeId>,
    sequences: Vec<Option<Sequence>>,
    used: u32,
}

/// Tokens that the same sequences hold.
#[derive(Debug)]
struct Node {
    tokens: Vec<Token>,
    parent: Option<NodeId>,
    children: Vec<NodeId>,
    /// Sequences that hold it.
    holders: u32,
    /// Those of them that grow.
    running: u32,
    /// How often a sequence was forked through it, and when at last.
    worth: Worth,
}

/// What makes tokens worth keeping: how often they were of use, and when at last.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Worth {
    hits: u32,
    last_used: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Sequence {
    /// The node that it ends with; none while it is empty.
    end: Option<NodeId>,
    length: u32,
    runs: bool,
}

/// The longest beginning of some tokens that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// A sequence that holds it.
    pub(super) sequence: SequenceId,
    /// How many tokens it is.
    pub(super) length: u32,
    /// Whether the sequence is kept, and holds nothing else.
    pub(super) is_whole: bool,
}

/// What is to go: a kept sequence is shortened, or freed if it is to keep nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Victim {
    pub(super) sequence: SequenceId,
    pub(super) keep: u32,
}

impl Tree {
    /// Cells that are used.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// Cells that sequences hold which grow, so that they cannot go.
    pub(super) fn used_by_running(&self) -> u32 {
        self.all().filter(|node| node.running > 0).map(Node::length).sum()
    }

    /// Cells that several sequences hold.
    pub(super) fn shared(&self) -> u32 {
        self.all().filter(|node| node.holders > 1).map(Node::length).sum()
    }

    /// How many tokens a sequence has.
    pub(super) fn length(&self, sequence: SequenceId) -> u32 {
        self.get(sequence).map_or(0, |sequence| sequence.length)
    }

    /// A sequence's tokens.
    pub(super) fn tokens(&self, sequence: SequenceId) -> Vec<Token> {
        let mut parts = Vec::new();
        let mut at = self.get(sequence).and_then(|sequence| sequence.end);
        while let Some(id) = at {
            parts.push(self.node(id).tokens.as_slice());
            at = self.node(id).parent;
        }
        parts.reverse();
        parts.concat()
    }

    /// The longest beginning of these tokens that can be forked. Where sequences cannot be cut, it is all of a kept one.
    pub(super) fn find(&self, tokens: &[Token], cuts: bool) -> Option<Found> {
        let mut best = (0, None, None);
        self.search(&self.roots, tokens, 0, cuts, &mut best);
        let (length, node, kept) = best;
        let sequence = kept.or_else(|| node.map(|id| self.holder(id)))?;
        Some(Found { sequence, length: length as u32, is_whole: kept.is_some() })
    }

    /// How many tokens of a sequence no other one holds.
    pub(super) fn own(&self, sequence: SequenceId) -> u32 {
        let mut own = 0;
        if let Some(end) = self.get(sequence).and_then(|sequence| sequence.end) {
            self.up(end, |node| own += if node.holders == 1 { node.length() } else { 0 });
        }
        own
    }

    /// How many of a sequence's first tokens were of use to another one, and what makes its last ones worth keeping.
    pub(super) fn use_of(&self, sequence: SequenceId) -> (usize, Worth) {
        let Some(Sequence { end: Some(end), length, .. }) = self.get(sequence) else { return (0, Worth::default()) };
        let (mut at, mut reused) = (length, 0);
        self.up(end, |node| {
            if node.worth.hits > 0 {
                reused = reused.max(at);
            }
            at -= node.length();
        });
        (reused as usize, self.node(end).worth)
    }

    /// How many of a sequence's first tokens are held by sequences that grow.
    pub(super) fn running_of(&self, sequence: SequenceId, length: u32) -> u32 {
        let (mut at, mut running) = (self.length(sequence), 0);
        if let Some(end) = self.get(sequence).and_then(|sequence| sequence.end) {
            self.up(end, |node| {
                let begin = at - node.length();
                if node.running > 0 {
                    running += at.min(length).saturating_sub(begin);
                }
                at = begin;
            });
        }
        running
    }

    /// An empty sequence that will grow.
    pub(super) fn begin(&mut self, sequence: SequenceId) {
        self.put(sequence, Sequence { end: None, length: 0, runs: true });
    }

    /// A sequence that will grow begins like another one.
    pub(super) fn fork(&mut self, from: SequenceId, to: SequenceId, length: u32, now: Instant) {
        self.begin(to);
        let length = length.min(self.length(from));
        let Some(end) = self.cut_at(from, length) else { return };
        self.put(to, Sequence { end: Some(end), length, runs: true });
        self.on_path(end, |node| {
            node.holders += 1;
            node.running += 1;
            node.worth.used(now);
        });
    }

    /// A kept sequence grows on.
    pub(super) fn resume(&mut self, sequence: SequenceId, now: Instant) {
        self.set_running(sequence, true, |node| {
            node.running += 1;
            node.worth.used(now);
        });
    }

    /// A sequence grows no more and is kept.
    pub(super) fn keep(&mut self, sequence: SequenceId, now: Instant) {
        self.set_running(sequence, false, |node| {
            node.running -= 1;
            node.worth.last_used = Some(now);
        });
    }

    /// A sequence has grown.
    pub(super) fn append(&mut self, sequence: SequenceId, tokens: &[Token]) {
        let Some(mut grown) = self.get(sequence).filter(|_| !tokens.is_empty()) else { return };
        grown.length += tokens.len() as u32;
        self.used += tokens.len() as u32;
        let own = grown.end.filter(|id| self.node(*id).holders == 1 && self.node(*id).children.is_empty());
        match own {
            Some(id) => self.node_mut(id).tokens.extend_from_slice(tokens),
            None => {
                let running = u32::from(grown.runs);
                let id = self.insert(Node {
                    tokens: tokens.to_vec(),
                    parent: grown.end,
                    children: Vec::new(),
                    holders: 1,
                    running,
                    worth: Worth::default(),
                });
                match grown.end {
                    Some(parent) => self.node_mut(parent).children.push(id),
                    None => self.roots.push(id),
                }
                grown.end = Some(id);
            }
        }
        self.put(sequence, grown);
    }

    /// A sequence is shorter; an empty one is still there.
    pub(super) fn truncate(&mut self, sequence: SequenceId, length: u32) {
        let Some(mut shorter) = self.get(sequence) else { return };
        while shorter.length > length {
            let Some(id) = shorter.end else { break };
            let over = shorter.length - length;
            let node = self.node(id);
            if node.length() > over && node.holders == 1 {
                let kept = node.tokens.len() - over as usize;
                self.node_mut(id).tokens.truncate(kept);
                self.used -= over;
                shorter.length = length;
            } else if node.length() > over {
                // Others hold all of it.
                let upper = self.split(id, node.tokens.len() - over as usize);
                self.let_go(id, shorter.runs);
                shorter.end = Some(upper);
                shorter.length = length;
            } else {
                shorter.length -= node.length();
                shorter.end = node.parent;
                self.let_go(id, shorter.runs);
            }
        }
        self.put(sequence, shorter);
    }

    /// A sequence is gone.
    pub(super) fn remove(&mut self, sequence: SequenceId) {
        self.truncate(sequence, 0);
        if let Some(slot) = self.sequences.get_mut(sequence.0 as usize) {
            *slot = None;
        }
    }

    /// Which kept cells are worth the least, of those that nobody else holds: what to shorten to have some of `wanted` cells.
    pub(super) fn least_valuable(&self, wanted: u32, cuts: bool, now: Instant) -> Option<Victim> {
        let ends = |sequence: &Sequence| sequence.end.map(|id| self.node(id)).filter(|node| node.children.is_empty());
        let least = |mut may_go: Box<dyn FnMut(&Node) -> bool + '_>| {
            let kept = self.kept().filter(|(_, sequence)| ends(sequence).is_some_and(&mut may_go));
            kept.min_by(|(_, one), (_, other)| self.value(one, now).total_cmp(&self.value(other, now)))
        };
        let own = least(Box::new(|node| node.holders == 1));
        // Of those that hold the same to its end one has to go before the last of them can be shortened.
        let (id, sequence) = own.or_else(|| least(Box::new(|node| node.running == 0)))?;
        let keep = match sequence.end {
            Some(end) if cuts && self.node(end).holders == 1 => {
                let node = self.node(end);
                let going = wanted.max(EVICTED_AT_ONCE).min(node.length());
                let rest = sequence.length - going;
                // What others hold as well needs no sequence of its own.
                let is_own = going < node.length() || node.parent.is_some_and(|parent| self.node(parent).holders == 1);
                if is_own { rest } else { 0 }
            }
            _ => 0,
        };
        Some(Victim { sequence: id, keep })
    }

    /// The kept sequence that is worth the least, for whoever needs another one.
    pub(super) fn least_valuable_sequence(&self, now: Instant) -> Option<SequenceId> {
        let value = |sequence: &Sequence| match sequence.end {
            // Whoever holds nothing of its own is worth nothing.
            Some(end) if self.node(end).holders == 1 => self.value(sequence, now) * f64::from(self.node(end).length()),
            _ => 0.0,
        };
        self.kept().min_by(|(_, one), (_, other)| value(one).total_cmp(&value(other))).map(|(id, _)| id)
    }

    /// Beginnings that were used again, the most useful first, each with a sequence that holds it.
    pub(super) fn reused(&self, now: Instant) -> Vec<(SequenceId, u32)> {
        let mut found: Vec<(f64, NodeId)> = Vec::new();
        for (id, node) in self.nodes.iter().enumerate().filter_map(|(id, node)| Some((id, node.as_ref()?))) {
            // Of a path that was always used as a whole the end stands for all.
            let goes_on = node.children.iter().any(|child| self.node(*child).worth.hits == node.worth.hits);
            if node.worth.hits > 0 && !goes_on {
                found.push((f64::from(node.worth.hits) / node.worth.seconds_unused(now), id));
            }
        }
        found.sort_by(|one, other| other.0.total_cmp(&one.0));
        found.into_iter().map(|(_, id)| (self.holder(id), self.end_of(id))).collect()
    }

    /// Goes down wherever the tokens lead: how many are there, the node with the last of them, and a kept sequence that ends
    /// just there.
    fn search(
        &self,
        level: &[NodeId],
        tokens: &[Token],
        matched: usize,
        cuts: bool,
        best: &mut (usize, Option<NodeId>, Option<SequenceId>),
    ) {
        for id in level {
            let node = self.node(*id);
            let length = common(&node.tokens, &tokens[matched..]);
            if length == 0 {
                continue;
            }
            let (matched, is_whole) = (matched + length, length == node.tokens.len());
            let kept = if is_whole { self.kept_end(*id) } else { None };
            let better = matched > best.0 || (matched == best.0 && best.2.is_none() && kept.is_some());
            if better && (cuts || kept.is_some()) {
                *best = (matched, Some(*id), kept);
            }
            if is_whole && matched < tokens.len() {
                self.search(&node.children, tokens, matched, cuts, best);
            }
        }
    }

    /// What a cell at a kept sequence's end is worth.
    fn value(&self, sequence: &Sequence, now: Instant) -> f64 {
        let Some(end) = sequence.end else { return 0.0 };
        self.node(end).worth.of(sequence.length, now)
    }

    fn kept(&self) -> impl Iterator<Item = (SequenceId, &Sequence)> {
        let all = self.sequences.iter().enumerate();
        all.filter_map(|(id, sequence)| Some((SequenceId(id as u32), sequence.as_ref().filter(|s| !s.runs)?)))
    }

    /// A kept sequence that ends with this node.
    fn kept_end(&self, id: NodeId) -> Option<SequenceId> {
        self.kept().find(|(_, sequence)| sequence.end == Some(id)).map(|(id, _)| id)
    }

    /// A sequence that holds a node.
    fn holder(&self, id: NodeId) -> SequenceId {
        let mut sequences = self.sequences.iter().enumerate();
        let holds = |sequence: &Sequence| {
            let mut at = sequence.end;
            while let Some(held) = at {
                if held == id {
                    return true;
                }
                at = self.node(held).parent;
            }
            false
        };
        let found = sequences.find(|(_, sequence)| sequence.as_ref().is_some_and(holds));
        SequenceId(found.expect("a node is held by a sequence").0 as u32)
    }

    /// How many tokens there are up to a node's end.
    fn end_of(&self, id: NodeId) -> u32 {
        let mut length = 0;
        self.up(id, |node| length += node.length());
        length
    }

    /// The node that a sequence's first tokens end with, after a node was split where they end within it.
    fn cut_at(&mut self, sequence: SequenceId, length: u32) -> Option<NodeId> {
        let Sequence { mut end, length: mut at, .. } = self.get(sequence)?;
        while let Some(id) = end {
            if at <= length {
                return Some(id);
            }
            let begin = at - self.node(id).length();
            if begin < length {
                return Some(self.split(id, (length - begin) as usize));
            }
            (end, at) = (self.node(id).parent, begin);
        }
        None
    }

    /// Parts a node in two; the new one is the upper one, so that whoever ends with the old one still does.
    fn split(&mut self, id: NodeId, at: usize) -> NodeId {
        let node = self.node_mut(id);
        let rest = node.tokens.split_off(at);
        let upper = Node {
            tokens: std::mem::replace(&mut node.tokens, rest),
            children: vec![id],
            parent: node.parent,
            ..*node
        };
        let parent = node.parent;
        let upper = self.insert(upper);
        self.node_mut(id).parent = Some(upper);
        let level = match parent {
            Some(parent) => &mut self.node_mut(parent).children,
            None => &mut self.roots,
        };
        level.iter_mut().filter(|child| **child == id).for_each(|child| *child = upper);
        upper
    }

    /// A sequence no longer holds a node, which is gone if it was the last one.
    fn let_go(&mut self, id: NodeId, ran: bool) {
        let node = self.node_mut(id);
        node.holders -= 1;
        node.running -= u32::from(ran);
        if node.holders > 0 {
            return;
        }
        let (parent, length) = (node.parent, node.length());
        self.used -= length;
        self.nodes[id] = None;
        let level = match parent {
            Some(parent) => &mut self.node_mut(parent).children,
            None => &mut self.roots,
        };
        level.retain(|child| *child != id);
    }

    fn set_running(&mut self, sequence: SequenceId, runs: bool, change: impl FnMut(&mut Node)) {
        let Some(changed) = self.get(sequence).filter(|sequence| sequence.runs != runs) else { return };
        self.put(sequence, Sequence { runs, ..changed });
        if let Some(end) = changed.end {
            self.on_path(end, change);
        }
    }

    fn on_path(&mut self, end: NodeId, mut change: impl FnMut(&mut Node)) {
        let mut at = Some(end);
        while let Some(id) = at {
            let node = self.node_mut(id);
            change(node);
            at = node.parent;
        }
    }

    fn up(&self, end: NodeId, mut see: impl FnMut(&Node)) {
        let mut at = Some(end);
        while let Some(id) = at {
            see(self.node(id));
            at = self.node(id).parent;
        }
    }

    fn insert(&mut self, node: Node) -> NodeId {
        match self.nodes.iter().position(Option::is_none) {
            Some(free) => {
                self.nodes[free] = Some(node);
                free
            }
            None => {
                self.nodes.push(Some(node));
                self.nodes.len() - 1
            }
        }
    }

    fn get(&self, sequence: SequenceId) -> Option<Sequence> {
        *self.sequences.get(sequence.0 as usize)?
    }

    fn put(&mut self, sequence: SequenceId, state: Sequence) {
        let index = sequence.0 as usize;
        if self.sequences.len() <= index {
            self.sequences.resize(index + 1, None);
        }
        self.sequences[index] = Some(state);
    }

    fn all(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes[id].as_ref().expect("a node that is named is there")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id].as_mut().expect("a node that is named is there")
    }
}

impl Node {
    fn length(&self) -> u32 {
        self.tokens.len() as u32
    }
}

impl Worth {
    /// They were of use.
    pub(super) fn used(&mut self, now: Instant) {
        self.hits += 1;
        self.last_used = Some(now);
    }

    /// What the last of so many tokens is worth: what it takes to compute it again, by how likely that is.
    pub(super) fn of(&self, tokens: u32, now: Instant) -> f64 {
        let cost = 1.0 + f64::from(tokens) / DEARER_AFTER;
        cost * f64::from(1 + self.hits) / self.seconds_unused(now)
    }

    /// That of the same tokens in two places.
    pub(super) fn or(self, other: Worth) -> Worth {
        Worth { hits: self.hits.max(other.hits), last_used: self.last_used.max(other.last_used) }
    }

    fn seconds_unused(&self, now: Instant) -> f64 {
        let seconds = self.last_used.map_or(0.0, |last| now.saturating_duration_since(last).as_secs_f64());
        seconds + RECENT_SECONDS
    }
}

/// How many tokens two runs begin with in common.
pub(super) fn common(one: &[Token], other: &[Token]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
