//! Request objects: known attributes, lenient types, the difference between absent and null, and
//! upstream's texts for what is wrong.

use crate::app::{Error, not_supported};
use serde_json::{Map, Value};
use std::net::IpAddr;

/// Longest name, description, tag, value.
pub const TEXT: usize = 255;

/// An attribute of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field<T> {
    /// Not there.
    Absent,
    /// `null`.
    Null,
    /// A value.
    Set(T),
}

impl<T> Field<T> {
    /// The value, or what stands for absent and null.
    pub fn or(self, default: T) -> T {
        match self {
            Self::Set(value) => value,
            Self::Absent | Self::Null => default,
        }
    }

    /// The value, or the type's default.
    pub fn or_default(self) -> T
    where
        T: Default,
    {
        self.or(T::default())
    }

    /// The value, if there is one.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }

    /// For updates: absent keeps, null becomes `on_null`.
    pub fn change(self, on_null: T) -> Option<T> {
        match self {
            Self::Absent => None,
            Self::Null => Some(on_null),
            Self::Set(value) => Some(value),
        }
    }

    /// For updates of what may be null.
    pub fn change_or_clear(self) -> Option<Option<T>> {
        match self {
            Self::Absent => None,
            Self::Null => Some(None),
            Self::Set(value) => Some(Some(value)),
        }
    }

    /// Converts the value.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Field<U> {
        match self {
            Self::Absent => Field::Absent,
            Self::Null => Field::Null,
            Self::Set(value) => Field::Set(convert(value)),
        }
    }
}

/// An object of a request.
#[derive(Debug, Clone)]
pub struct Body {
    path: String,
    map: Map<String, Value>,
}

impl Body {
    /// Takes the object `root` out of the request's body.
    pub fn open(
        mut outer: Map<String, Value>,
        argument: &str,
        root: &str,
        known: &[&str],
    ) -> Result<Self, Error> {
        refuse_unknown(&outer, argument, &[root])?;
        let inner = outer
            .remove(root)
            .ok_or_else(|| Error::input(root, "None", "Mandatory field missing."))?;
        Self::new(inner, format!("{argument}.{root}"), known)
    }

    /// Reads one object; `path` is how upstream names it in its texts.
    pub fn new(value: Value, path: String, known: &[&str]) -> Result<Self, Error> {
        let Value::Object(map) = value else {
            let name = path.rsplit('.').next().unwrap_or(&path).to_owned();
            return Err(Error::input(name, show(&value), "An object is expected."));
        };
        refuse_unknown(&map, &path, known)?;
        let body = Self { path, map };
        // Also where it is the parent's anyway.
        body.project()?;
        Ok(body)
    }

    /// Refuses with 501 what has no effect yet and was given a value that would need one.
    pub fn refuse_unsupported(&self, resource: &str) -> Result<(), Error> {
        for name in not_supported::attributes(resource) {
            let given = match self.map.get(name) {
                None | Some(Value::Null | Value::Bool(false)) => false,
                Some(Value::Array(list)) => !list.is_empty(),
                Some(Value::Object(map)) => !map.is_empty(),
                Some(Value::String(text)) if name == "client_authentication" => text != "NONE",
                Some(Value::String(text)) => !text.is_empty(),
                Some(Value::Bool(true) | Value::Number(_)) => true,
            };
            if given {
                return Err(Error::not_supported(name));
            }
        }
        Ok(())
    }

    /// Whether the attribute is there, be it null.
    pub fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// Number of attributes given.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Nothing given.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Whether the attribute has a value that is not an empty list or object.
    pub fn has_content(&self, name: &str) -> bool {
        match self.raw(name) {
            Field::Absent | Field::Null => false,
            Field::Set(Value::Array(list)) => !list.is_empty(),
            Field::Set(Value::Object(map)) => !map.is_empty(),
            Field::Set(_) => true,
        }
    }

    /// The value as it is.
    pub fn raw(&self, name: &str) -> Field<&Value> {
        match self.map.get(name) {
            None => Field::Absent,
            Some(Value::Null) => Field::Null,
            Some(value) => Field::Set(value),
        }
    }

    fn read<T>(
        &self,
        name: &str,
        convert: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Result<Field<T>, Error> {
        match self.raw(name) {
            Field::Absent => Ok(Field::Absent),
            Field::Null => Ok(Field::Null),
            Field::Set(value) => convert(value)
                .map(Field::Set)
                .map_err(|why| Error::input(name, show(value), why)),
        }
    }

    /// The value of an attribute that must be there.
    pub fn required<T>(&self, name: &str, field: Field<T>) -> Result<T, Error> {
        match field {
            Field::Set(value) => Ok(value),
            Field::Absent => Err(Error::input(name, "None", "Mandatory field missing.")),
            Field::Null => Err(Error::option("None", name)),
        }
    }

    /// For updates of what cannot be null: absent keeps.
    pub fn kept<T>(&self, name: &str, field: Field<T>) -> Result<Option<T>, Error> {
        match field {
            Field::Set(value) => Ok(Some(value)),
            Field::Absent => Ok(None),
            Field::Null => Err(Error::option("None", name)),
        }
    }

    /// Text on one line.
    pub fn text(&self, name: &str, max: usize) -> Result<Field<String>, Error> {
        self.read(name, |value| line(value, max))
    }

    /// The description, which may have several lines.
    pub fn description(&self) -> Result<Field<String>, Error> {
        self.lines("description", TEXT)
    }

    /// Text that may have several lines.
    pub fn lines(&self, name: &str, max: usize) -> Result<Field<String>, Error> {
        self.read(name, |value| {
            let text = string(value, max)?;
            let bad = |c: char| c.is_control() && !"\n\r\t".contains(c);
            if text.contains(bad) {
                return Err("Value should not contain control characters".into());
            }
            Ok(text)
        })
    }

    /// A truth value, leniently.
    pub fn bool(&self, name: &str) -> Result<Field<bool>, Error> {
        self.read(name, |value| {
            let text = match value {
                Value::Bool(value) => return Ok(*value),
                Value::Number(number) if number.as_i64() == Some(0) => return Ok(false),
                Value::Number(number) if number.as_i64() == Some(1) => return Ok(true),
                Value::String(text) => text.to_ascii_lowercase(),
                _ => String::new(),
            };
            match text.as_str() {
                "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
                "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
                _ => Err(format!("Value not an unambiguous boolean: {}", show(value))),
            }
        })
    }

    /// A number, also as digits in a text.
    pub fn int(&self, name: &str, min: i32, max: i32) -> Result<Field<i32>, Error> {
        self.read(name, |value| {
            let number = match value {
                Value::Number(number) => number.as_i64(),
                Value::String(text) => text.trim().parse().ok(),
                _ => None,
            };
            let number = number.ok_or("Value should be an integer")?;
            if number < i64::from(min) {
                return Err(format!("Value should be greater or equal to {min}"));
            }
            i32::try_from(number)
                .ok()
                .filter(|number| *number <= max)
                .ok_or_else(|| format!("Value should be lower or equal to {max}"))
        })
    }

    /// A UUID, in its canonical form.
    pub fn uuid(&self, name: &str) -> Result<Field<String>, Error> {
        self.read(name, |value| {
            value
                .as_str()
                .and_then(|text| text.parse::<uuid::Uuid>().ok())
                .map(|id| id.to_string())
                .ok_or_else(|| "Value should be UUID format".into())
        })
    }

    /// An IP address, as it was written.
    pub fn ip(&self, name: &str) -> Result<Field<String>, Error> {
        self.read(name, |value| {
            let text = value.as_str().unwrap_or_default();
            text.parse::<IpAddr>()
                .map(|_| text.to_owned())
                .map_err(|_| "Value should be IPv4 or IPv6 format".into())
        })
    }

    /// One of some words.
    pub fn choice(&self, name: &str, words: &[&str]) -> Result<Field<String>, Error> {
        self.read(name, |value| {
            let text = value.as_str().unwrap_or_default();
            if words.contains(&text) {
                return Ok(text.to_owned());
            }
            Err(format!("Value should be one of: {}", words.join(", ")))
        })
    }

    /// A list, each item read by `convert`.
    pub fn list<T>(
        &self,
        name: &str,
        convert: impl Fn(&Value) -> Result<T, String>,
    ) -> Result<Field<Vec<T>>, Error> {
        self.read(name, |value| {
            let items = value.as_array().ok_or("A list is expected.")?;
            items.iter().map(convert).collect()
        })
    }

    /// Tags.
    pub fn tags(&self) -> Result<Field<Vec<String>>, Error> {
        let tags = self.list("tags", |value| {
            let text = line(value, TEXT)?;
            if text.is_empty() {
                return Err("A tag is not empty.".into());
            }
            Ok(text)
        })?;
        Ok(tags.map(|mut tags| {
            tags.sort();
            tags.dedup();
            tags
        }))
    }

    /// `project_id` or its twin `tenant_id`.
    pub fn project(&self) -> Result<Field<String>, Error> {
        let twin = self.text("tenant_id", 36)?;
        match self.text("project_id", 36)? {
            Field::Set(project) => Ok(Field::Set(project)),
            _ => Ok(twin),
        }
    }

    /// A nested object.
    pub fn object(&self, name: &str, known: &[&str]) -> Result<Field<Self>, Error> {
        match self.raw(name) {
            Field::Absent => Ok(Field::Absent),
            Field::Null => Ok(Field::Null),
            Field::Set(value) => {
                let path = format!("{}.{name}", self.path);
                Self::new(value.clone(), path, known).map(Field::Set)
            }
        }
    }

    /// Nested objects.
    pub fn objects(&self, name: &str, known: &[&str]) -> Result<Vec<Self>, Error> {
        let list = match self.raw(name) {
            Field::Absent | Field::Null => return Ok(Vec::new()),
            Field::Set(Value::Array(list)) => list,
            Field::Set(value) => {
                return Err(Error::input(name, show(value), "A list is expected."));
            }
        };
        let path = format!("{}.{name}", self.path);
        list.iter()
            .map(|value| Self::new(value.clone(), path.clone(), known))
            .collect()
    }
}

fn refuse_unknown(map: &Map<String, Value>, path: &str, known: &[&str]) -> Result<(), Error> {
    let unknown: Vec<String> = map
        .keys()
        .filter(|key| !known.contains(&key.as_str()))
        .map(|key| key.chars().take(TEXT).collect())
        .collect();
    match unknown.len() {
        0 => Ok(()),
        1 => Err(Error::bad(format!(
            "Unknown attribute for argument {path}: {}",
            unknown.join(", ")
        ))),
        _ => Err(Error::bad(format!(
            "Unknown attributes for argument {path}: {}",
            unknown.join(", ")
        ))),
    }
}

/// A value in an error text, not longer than a line.
fn show(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars().take(TEXT).collect()
}

fn string(value: &Value, max: usize) -> Result<String, String> {
    let text = value.as_str().ok_or("Value should be string")?;
    if text.chars().count() > max {
        return Err(format!(
            "Value should have a maximum character requirement of {max}"
        ));
    }
    Ok(text.to_owned())
}

/// Control characters end up in logs and configuration: a line break there is an injection.
pub(super) fn line(value: &Value, max: usize) -> Result<String, String> {
    let text = string(value, max)?;
    if text.contains(char::is_control) {
        return Err("Value should not contain control characters".into());
    }
    Ok(text)
}
