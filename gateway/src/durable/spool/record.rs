//! A record and its bytes on disk.

use std::sync::Arc;

/// Bytes that the store needs to keep a record beside its encoding: key, offsets and its share of the tree's
/// inner pages.
const OVERHEAD_BYTES: usize = 64;
/// The store's page. What does not fit one takes a page of the next power of two.
const PAGE_BYTES: usize = 4096;

/// What is to be produced to Kafka later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The Kafka topic.
    pub topic: Arc<str>,
    /// The key; records of one sensor keep their order.
    pub sensor_id: Arc<str>,
    /// Names and values, in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The value.
    pub payload: Vec<u8>,
}

impl Record {
    /// Returns what the record takes of [`Limits::bytes_max`](super::Limits::bytes_max).
    ///
    /// Units: bytes of disk, rounded as the store rounds them.
    pub fn bytes(&self) -> u64 {
        Self::bytes_of(&self.topic, &self.sensor_id, &self.headers, self.payload.len())
    }

    /// Returns the same of a record that is not made yet.
    pub(crate) fn bytes_of(
        topic: &str,
        sensor_id: &str,
        headers: &[(String, Vec<u8>)],
        payload_bytes: usize,
    ) -> u64 {
        let headers: usize = headers.iter().map(|(name, value)| 8 + name.len() + value.len()).sum();
        disk_bytes(12 + topic.len() + sensor_id.len() + headers + payload_bytes)
    }

    /// Appends the encoding: every part as its length (u32, little endian) and its bytes, the payload last
    /// without a length.
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        put(to, self.topic.as_bytes());
        put(to, self.sensor_id.as_bytes());
        to.extend(length(self.headers.len()).to_le_bytes());
        for (name, value) in &self.headers {
            put(to, name.as_bytes());
            put(to, value);
        }
        to.extend(&self.payload);
    }

    /// Reads an encoding; `None` when it is none.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let topic = text(&mut bytes)?.into();
        let sensor_id = text(&mut bytes)?.into();
        let mut headers = Vec::new();
        for _ in 0..number(&mut bytes)? {
            headers.push((text(&mut bytes)?.to_owned(), part(&mut bytes)?.to_vec()));
        }
        Some(Self { topic, sensor_id, headers, payload: bytes.to_vec() })
    }

    /// Reads the sensor id of an encoding alone; `None` when it is none.
    pub(super) fn sensor_id_of(mut bytes: &[u8]) -> Option<&str> {
        part(&mut bytes)?;
        text(&mut bytes)
    }
}

/// Returns what an encoding of this length takes of the disk: its share of a page that several fit, or pages
/// of its own.
pub(super) fn disk_bytes(encoded: usize) -> u64 {
    let bytes = encoded + OVERHEAD_BYTES;
    (if bytes > PAGE_BYTES { bytes.next_power_of_two() } else { PAGE_BYTES / (PAGE_BYTES / bytes) }) as u64
}

fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend(length(bytes.len()).to_le_bytes());
    to.extend(bytes);
}

/// Returns a length. A part longer than 4 GiB cannot be: the spool refuses records far below.
fn length(of: usize) -> u32 {
    u32::try_from(of).expect("a record is bounded by RECORD_BYTES_MAX")
}

fn number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number))
}

fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(bytes)?).ok()?;
    let (part, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(part)
}

fn text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(part(bytes)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn any_record() -> impl Strategy<Value = Record> {
        (
            "\\PC{0,20}",
            "\\PC{0,20}",
            vec(("\\PC{0,9}", vec(any::<u8>(), 0..20)), 0..4),
            vec(any::<u8>(), 0..99),
        )
            .prop_map(|(topic, sensor_id, headers, payload)| Record {
                topic: topic.into(),
                sensor_id: sensor_id.into(),
                headers,
                payload,
            })
    }

    proptest! {
        #[test]
        fn any_record_comes_back_as_it_was(record in any_record()) {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            prop_assert_eq!(record.bytes(), disk_bytes(bytes.len()));
            prop_assert_eq!(Record::sensor_id_of(&bytes), Some(&*record.sensor_id));
            prop_assert_eq!(Record::decode(&bytes), Some(record));
        }

        #[test]
        fn any_other_bytes_are_no_record_or_one_and_never_a_panic(bytes in vec(any::<u8>(), 0..200)) {
            if let Some(record) = Record::decode(&bytes) {
                prop_assert_eq!(Some(&*record.sensor_id), Record::sensor_id_of(&bytes));
            }
        }
    }
}
