//! A dead letter that its topic refuses, too, as a file of JSON beside the gateway's spool.

use super::{DeadLetter, Header, NotADeadLetter};
use base64::prelude::{BASE64_STANDARD, Engine};
use serde::{Deserialize, Serialize};

/// Holds the record that the dead-letter topic did not take: the same key, headers and value, in JSON.
///
/// Text is text where it is UTF-8; other bytes, and the value always, are Base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedFile {
    key: String,
    headers: Vec<FileHeader>,
    value_base64: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileHeader {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

/// Holds what a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The Kafka key: the sensor id.
    pub key: String,
    /// Why it is here, and where it was to go.
    pub letter: DeadLetter,
    /// The record's value.
    pub value: Vec<u8>,
}

/// Says why a file does not hold a dead letter.
#[derive(Debug, thiserror::Error)]
pub enum NotARefusedFile {
    /// Not the JSON of one.
    #[error("file is no JSON of a refused record")]
    Json(#[from] serde_json::Error),
    /// Bytes that are not in Base64.
    #[error("file has a value that is not Base64")]
    Base64(#[from] base64::DecodeError),
    /// Headers of something else.
    #[error(transparent)]
    Headers(#[from] NotADeadLetter),
}

impl RefusedFile {
    /// Makes the content of a file.
    pub fn new(key: &str, letter: &DeadLetter, value: &[u8]) -> Self {
        let header = |(name, value): Header| match value.map(String::from_utf8) {
            None => FileHeader { name, value: None, value_base64: None },
            Some(Ok(text)) => FileHeader { name, value: Some(text), value_base64: None },
            Some(Err(bytes)) => {
                let encoded = BASE64_STANDARD.encode(bytes.as_bytes());
                FileHeader { name, value: None, value_base64: Some(encoded) }
            }
        };
        Self {
            key: key.to_owned(),
            headers: letter.headers().into_iter().map(header).collect(),
            value_base64: BASE64_STANDARD.encode(value),
        }
    }

    /// Reads the content of a file.
    ///
    /// # Errors
    /// [`NotARefusedFile`]: the file was not written by this module.
    pub fn read(content: &[u8]) -> Result<Refused, NotARefusedFile> {
        let file: Self = serde_json::from_slice(content)?;
        let header = |header: FileHeader| {
            let value = match (header.value, header.value_base64) {
                (Some(text), _) => Some(text.into_bytes()),
                (None, Some(encoded)) => Some(BASE64_STANDARD.decode(encoded)?),
                (None, None) => None,
            };
            Ok::<Header, base64::DecodeError>((header.name, value))
        };
        let headers = file.headers.into_iter().map(header).collect::<Result<Vec<_>, _>>()?;
        let letter = DeadLetter::read(headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())))?;
        Ok(Refused { key: file.key, letter, value: BASE64_STANDARD.decode(file.value_base64)? })
    }
}
