//! Attributes of nodes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};

use super::tensor::Constant;

/// A node attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
    Floats(Vec<f32>),
    Text(String),
    Texts(Vec<String>),
    Tensor(Constant),
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => value.fmt(f),
            Self::Ints(values) => write!(f, "{values:?}"),
            Self::Float(value) => value.fmt(f),
            Self::Floats(values) => write!(f, "{values:?}"),
            Self::Text(text) => text.fmt(f),
            Self::Texts(texts) => write!(f, "{texts:?}"),
            Self::Tensor(constant) => write!(f, "a tensor {:?}", constant.shape()),
        }
    }
}

/// Attributes by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attributes(BTreeMap<Cow<'static, str>, Attribute>);

impl Deref for Attributes {
    type Target = BTreeMap<Cow<'static, str>, Attribute>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Attributes {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl FromIterator<(Cow<'static, str>, Attribute)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (Cow<'static, str>, Attribute)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl Attributes {
    pub fn new() -> Self {
        Self::default()
    }

    /// Integer attribute, or its default.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        match self.get(name) {
            Some(Attribute::Int(value)) => *value,
            _ => default,
        }
    }

    /// Integer list attribute, or its default.
    pub fn ints(&self, name: &str, default: &[i64]) -> Vec<i64> {
        match self.get(name) {
            Some(Attribute::Ints(values)) => values.clone(),
            _ => default.to_vec(),
        }
    }

    /// Float attribute, or its default.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        match self.get(name) {
            Some(Attribute::Float(value)) => *value,
            _ => default,
        }
    }

    /// Text attribute, or its default.
    pub fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        match self.get(name) {
            Some(Attribute::Text(value)) => value,
            _ => default,
        }
    }
}
