//! One request, read: query, body, caller, and where it came in.

use super::MAX_BODY;
use super::access::Scope;
use super::envelope::RequestId;
use crate::app::{AppState, Caller, Error};
use crate::db::query::list::PageRequest;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, OriginalUri, Request};
use axum::http::{HeaderMap, StatusCode, header};
use krater_model::Secret;
use serde_json::{Map, Value, json};

/// Page size when the client gives none, and the largest it can ask for (upstream's shipped default).
const PAGE_MAX_LIMIT: u64 = 1_000;
/// Longest query string in bytes; lists of 100 tags stay far below.
const MAX_QUERY: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) state: AppState,
    pub(super) caller: Caller,
    /// Decoded pairs in order.
    pub(super) query: Vec<(String, String)>,
    /// `http://host` or `https://host` as the client wrote it.
    pub(super) base: String,
    /// Path without query.
    path: String,
    headers: HeaderMap,
    bytes: Bytes,
}

impl FromRequest<AppState> for Call {
    type Rejection = Error;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Error> {
        let (parts, body) = request.into_parts();
        let uri = parts
            .extensions
            .get::<OriginalUri>()
            .map_or_else(|| parts.uri.clone(), |uri| uri.0.clone());
        let raw_query = uri.query().unwrap_or_default();
        if raw_query.len() > MAX_QUERY {
            return Err(Error::new(
                StatusCode::URI_TOO_LONG,
                format!("The query string is longer than {MAX_QUERY} bytes."),
            ));
        }
        let host = parts
            .headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .map(str::to_owned)
            .or_else(|| uri.authority().map(ToString::to_string))
            .unwrap_or_else(|| "localhost".to_owned());
        let text = |name: &str| {
            let value = parts.headers.get(name)?.to_str().ok()?;
            let plain = value.len() <= 36 && !value.is_empty();
            plain.then(|| value.to_owned())
        };
        let scheme = if state.encrypted { "https" } else { "http" };
        let request_id = parts
            .extensions
            .get::<RequestId>()
            .map(|id| id.0.clone())
            .unwrap_or_default();
        let caller = Caller {
            request_id,
            project_id: text("x-project-id"),
            token: parts
                .headers
                .get(super::access::TOKEN)
                .and_then(|token| token.to_str().ok())
                .map(Secret::new),
            scope: parts.extensions.get::<Scope>().map(|scope| scope.0.clone()),
        };
        let bytes = whole(body).await?;
        Ok(Self {
            state: state.clone(),
            caller,
            query: decode(raw_query),
            base: format!("{scheme}://{host}"),
            path: uri.path().to_owned(),
            headers: parts.headers,
            bytes,
        })
    }
}

/// The bytes of a body.
pub(super) async fn whole(body: Body) -> Result<Bytes, Error> {
    axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| {
        Error::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The request body is incomplete or larger than {MAX_BODY} bytes."),
        )
    })
}

fn missing(argument: &str) -> Error {
    Error::bad(format!("Missing argument: \"{argument}\""))
}

/// The JSON object that a body is.
pub(super) fn object(bytes: &[u8], argument: &str) -> Result<Map<String, Value>, Error> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(missing(argument));
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::bad(format!(
            "Invalid input for field/attribute {argument}. The body must be a JSON object."
        ))),
        Err(error) => Err(Error::bad(format!(
            "Request is not in valid JSON format: {error}"
        ))),
    }
}

impl Call {
    /// The JSON object of the body. `argument` is upstream's name for it in its texts.
    pub(super) fn json(&self, argument: &str) -> Result<Map<String, Value>, Error> {
        let kind = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(|value| {
                value
                    .split(';')
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .to_owned()
            });
        match kind.as_deref() {
            None | Some("" | "application/json" | "text/javascript" | "application/javascript") => {
            }
            Some("application/x-www-form-urlencoded") => return Err(missing(argument)),
            Some(other) => {
                return Err(Error::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    format!("Unexpected content type: {other}. Use application/json."),
                ));
            }
        }
        object(&self.bytes, argument)
    }

    /// A header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as it came.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the query has `name` with a true value.
    pub(super) fn flag(&self, name: &str) -> bool {
        flag(&self.query, name)
    }

    /// What the client asks of a list.
    pub(super) fn page(&self) -> Result<PageRequest, Error> {
        page(&self.query)
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        value(&self.query, name)
    }

    /// The page's links, with upstream's quirks: `next` whenever the page is full, `previous`
    /// whenever a marker was given, and neither filters nor directions in them.
    pub(super) fn links(&self, page: &PageRequest, items: &[Value]) -> Value {
        let id = |item: Option<&Value>| {
            // Zones have nothing but their name, quotas nothing but their project.
            let names = ["id", "name", "project_id"];
            let id = item.and_then(|item| names.iter().find_map(|name| item.get(*name)?.as_str()));
            encode(id.unwrap_or("None"))
        };
        if items.is_empty() {
            return json!([]);
        }
        let limit = page
            .limit
            .map_or_else(|| "None".to_owned(), |limit| limit.to_string());
        let mut common = format!("{}{}?limit={limit}", self.base, self.path);
        for name in ["sort", "sort_key"] {
            if let Some(value) = self.value(name).filter(|value| !value.is_empty()) {
                common.push_str(&format!("&{name}={}", encode(value)));
            }
        }
        let mut links = Vec::new();
        if page.marker.is_some() {
            let marker = id(items.first());
            links.push(json!({
                "rel": "previous", "href": format!("{common}&marker={marker}&page_reverse=True"),
            }));
        }
        let full = page
            .limit
            .is_none_or(|limit| u64::try_from(items.len()).is_ok_and(|count| count >= limit));
        if full {
            let marker = id(items.last());
            links.push(json!({"rel": "next", "href": format!("{common}&marker={marker}")}));
        }
        Value::Array(links)
    }

    /// Keeps only the attributes named by `fields=`.
    pub(super) fn fields(&self, item: Value) -> Value {
        let wanted: Vec<&str> = self
            .query
            .iter()
            .filter(|(name, _)| name == "fields")
            .flat_map(|(_, value)| value.split(','))
            .collect();
        match item {
            Value::Object(map) if !wanted.is_empty() => {
                let kept = map
                    .into_iter()
                    .filter(|(key, _)| wanted.contains(&key.as_str()));
                Value::Object(kept.collect())
            }
            other => other,
        }
    }
}

/// Whether a query has `name` with a true value.
pub(super) fn flag(query: &[(String, String)], name: &str) -> bool {
    query.iter().any(|(key, value)| {
        let value = value.to_ascii_lowercase();
        key == name && ["1", "t", "true", "on", "y", "yes"].contains(&value.as_str())
    })
}

fn value<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let pair = query.iter().find(|(key, _)| key == name);
    pair.map(|(_, value)| value.as_str())
}

/// What a query asks of a list.
pub(super) fn page(query: &[(String, String)]) -> Result<PageRequest, Error> {
    let mut page = PageRequest {
        limit: Some(PAGE_MAX_LIMIT),
        sort: sort(query)?,
        ..PageRequest::default()
    };
    let tags = |value: &str| value.split(',').map(str::to_owned).collect::<Vec<_>>();
    for (name, value) in query {
        match name.as_str() {
            "limit" => page.limit = limit(value)?,
            "marker" => page.marker = Some(value.clone()),
            "page_reverse" => page.reverse = value == "True",
            "sort" | "sort_key" | "sort_dir" | "fields" => {}
            "tags" => page.tags.extend(tags(value)),
            "tags-any" => page.tags_any.extend(tags(value)),
            "not-tags" => page.not_tags.extend(tags(value)),
            "not-tags-any" => page.not_tags_any.extend(tags(value)),
            _ => {
                let name = if name == "tenant_id" {
                    "project_id"
                } else {
                    name
                };
                if page.filters.iter().any(|(known, _)| known == name) {
                    return Err(crate::db::query::list::ListError::Filter.into());
                }
                page.filters.push((name.to_owned(), value.clone()));
            }
        }
    }
    Ok(page)
}

fn sort(query: &[(String, String)]) -> Result<Vec<(String, bool)>, Error> {
    let mut keys = Vec::new();
    if let Some(sort) = value(query, "sort").filter(|sort| !sort.is_empty()) {
        for key in sort.split(',') {
            match key.split_once(':') {
                None => keys.push((key.to_owned(), false)),
                Some((key, direction)) => keys.push((key.to_owned(), descending(direction)?)),
            }
        }
    } else if let Some(sort) = value(query, "sort_key").filter(|key| !key.is_empty()) {
        let directions = value(query, "sort_dir").unwrap_or_default();
        let mut directions = directions.split(',').filter(|text| !text.is_empty());
        for key in sort.split(',') {
            let direction = descending(directions.next().unwrap_or("asc"))?;
            keys.push((key.to_owned(), direction));
        }
    }
    Ok(keys)
}

fn limit(text: &str) -> Result<Option<u64>, Error> {
    if text == "infinite" {
        return Ok(None);
    }
    match text.trim().parse::<i64>() {
        Ok(number) => Ok(u64::try_from(number)
            .ok()
            .filter(|number| *number > 0)
            .map(|number| number.min(PAGE_MAX_LIMIT))),
        Err(_) => Err(Error::bad(format!(
            "Supplied pagination limit '{text}' is not valid."
        ))),
    }
}

fn descending(text: &str) -> Result<bool, Error> {
    match text.to_ascii_lowercase().as_str() {
        "asc" => Ok(false),
        "desc" => Ok(true),
        other => Err(Error::bad(format!(
            "Supplied sort direction '{other}' is not valid."
        ))),
    }
}

/// `%XX` as the byte that it stands for; a broken escape stays as it is.
pub(super) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let digits = more.get(..2).filter(|_| *first == b'%');
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = more.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    bytes
}

/// `application/x-www-form-urlencoded`, leniently: a broken escape stays as it is.
pub(super) fn decode(query: &str) -> Vec<(String, String)> {
    let text = |part: &str| {
        let bytes = unescape(&part.replace('+', " "));
        // No text that is stored has a NUL, and PostgreSQL refuses to look for one.
        String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}")
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (text(name), text(value))
        })
        .collect()
}

pub(super) fn encode(text: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || "-_.~,:".contains(c);
    let mut out = String::new();
    for c in text.chars() {
        if keep(c) {
            out.push(c);
        } else {
            let mut buffer = [0; 4];
            for byte in c.encode_utf8(&mut buffer).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn queries_are_decoded() {
        let pairs = decode("a=b%20c+d&tags=x%2Cy&&flag&bad=%zz%4&nul=%00&utf8=%ff");
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            pairs,
            [
                pair("a", "b c d"),
                pair("tags", "x,y"),
                pair("flag", ""),
                pair("bad", "%zz%4"),
                pair("nul", "\u{fffd}"),
                pair("utf8", "\u{fffd}")
            ]
        );
        assert_eq!(encode("name:asc,ü&"), "name:asc,%C3%BC%26");
    }
}
