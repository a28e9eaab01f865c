//! Which keys of an object the columns want: a tree of the schema's paths, and a way to find a key in it.

use std::sync::Arc;

use crate::schema::{Column, Source};

/// The index of an object's keys in [`KeyTree`].
pub(super) type ObjectId = usize;

/// A key that a column reads, or that leads to one.
#[derive(Debug)]
pub(super) struct Key {
    /// The name, unescaped.
    pub(super) name: Box<str>,
    /// Its number among all keys of the tree: the index of its bit in what a row has seen.
    pub(super) id: usize,
    /// The columns that read the value.
    pub(super) columns: Vec<usize>,
    /// The columns that take the value's JSON text.
    pub(super) json_columns: Vec<usize>,
    /// The object that the value has to be, where columns read something within it.
    pub(super) object: Option<ObjectId>,
    /// A column at or below the key: the one to name when the value is no object.
    pub(super) example: usize,
    /// The name and a closing quote, as JSON writes it. Empty where it would have to be escaped.
    written: Box<[u8]>,
}

impl Key {
    /// Whether `json`, which begins after a quote, begins with this key and its closing quote.
    #[inline]
    pub(super) fn begins(&self, json: &[u8]) -> bool {
        !self.written.is_empty() && json.starts_with(&self.written)
    }
}

/// The keys of one object.
#[derive(Debug, Default)]
pub(super) struct Object {
    pub(super) keys: Vec<Key>,
    /// Indices of keys, ordered by bucket; and where each bucket begins.
    order: Vec<usize>,
    buckets: Vec<usize>,
}

/// All objects that the schema's paths lead through, the event's own first.
#[derive(Debug)]
pub(super) struct KeyTree {
    pub(super) objects: Vec<Object>,
    /// Keys of all objects.
    pub(super) keys: usize,
}

impl KeyTree {
    pub(super) fn new(columns: &[Column]) -> Self {
        let mut tree = Self { objects: vec![Object::default()], keys: 0 };
        for (index, column) in columns.iter().enumerate() {
            if let Source::Field { path, as_json } = &column.source {
                tree.add(path, *as_json, index);
            }
        }
        for object in &mut tree.objects {
            object.index();
        }
        tree
    }

    fn add(&mut self, path: &[String], as_json: bool, column: usize) {
        let mut object = 0;
        for (depth, name) in path.iter().enumerate() {
            let key = self.key(object, name, column);
            let new_object = self.objects.len();
            let Some(key) = self.objects.get_mut(object).and_then(|object| object.keys.get_mut(key)) else {
                return;
            };
            if depth + 1 == path.len() {
                match as_json {
                    true => key.json_columns.push(column),
                    false => key.columns.push(column),
                }
                return;
            }
            object = *key.object.get_or_insert(new_object);
            if object == new_object {
                self.objects.push(Object::default());
            }
        }
    }

    /// The index of a key in its object, where it is added unless it is there.
    fn key(&mut self, object: ObjectId, name: &str, column: usize) -> usize {
        let id = self.keys;
        let Some(object) = self.objects.get_mut(object) else { return 0 };
        if let Some(index) = object.keys.iter().position(|key| &*key.name == name) {
            return index;
        }
        self.keys += 1;
        let is_plain = name.chars().all(|c| c >= ' ' && c != '"' && c != '\\');
        object.keys.push(Key {
            name: name.into(),
            id,
            columns: Vec::new(),
            json_columns: Vec::new(),
            object: None,
            example: column,
            written: match is_plain {
                true => format!("{name}\"").into_bytes().into(),
                false => Box::default(),
            },
        });
        object.keys.len() - 1
    }
}

impl Object {
    fn index(&mut self) {
        let size = (self.keys.len() * 4).next_power_of_two();
        let bucket =
            |index: &usize| self.keys.get(*index).map_or(0, |key| hash(key.name.as_bytes()) & (size - 1));
        let mut order: Vec<usize> = (0..self.keys.len()).collect();
        order.sort_by_key(bucket);
        self.buckets = (0..=size).map(|b| order.partition_point(|index| bucket(index) < b)).collect();
        self.order = order;
    }

    /// The index of the key of that name.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let bucket = hash(name.as_bytes()) & (self.buckets.len().checked_sub(2)?);
        let (begin, end) = (*self.buckets.get(bucket)?, *self.buckets.get(bucket + 1)?);
        let candidates = self.order.get(begin..end)?;
        candidates.iter().copied().find(|index| self.keys.get(*index).is_some_and(|key| &*key.name == name))
    }
}

/// Spreads names over buckets. The names in the buckets are the schema's, so nobody can choose them to collide.
fn hash(name: &[u8]) -> usize {
    let mut hash = name.len() as u64;
    let (words, rest) = name.as_chunks::<8>();
    for word in words {
        hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }
    for byte in rest {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }
    // The upper half alone: the size of a `usize` does not matter.
    usize::try_from(hash >> 40).unwrap_or_default()
}

/// The names of the columns, shared with the rejects that name one.
pub(super) fn column_names(columns: &[Column]) -> Vec<Arc<str>> {
    columns.iter().map(|column| Arc::from(column.name.as_str())).collect()
}
