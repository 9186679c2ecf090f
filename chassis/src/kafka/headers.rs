//! Record headers as names and values, without a client's types.

use rdkafka::message::{Header, Headers, Message, OwnedHeaders};

/// Makes headers for a record, in their order.
pub fn owned_headers(headers: impl IntoIterator<Item = (String, Option<Vec<u8>>)>) -> OwnedHeaders {
    headers.into_iter().fold(OwnedHeaders::new(), |owned, (name, value)| {
        owned.insert(Header { key: &name, value: value.as_ref() })
    })
}

/// Returns the headers of a record, in their order.
pub fn headers_of<M: Message>(record: &M) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
    let headers = record.headers();
    headers.into_iter().flat_map(|headers| headers.iter().map(|header| (header.key, header.value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::Timestamp;
    use rdkafka::message::OwnedMessage;

    #[test]
    fn headers_come_back_as_they_were_made() {
        let headers = [("a", Some(b"1".to_vec())), ("a", None), ("é", Some(b"\xff".to_vec()))];
        let headers = headers.map(|(name, value)| (name.to_owned(), value));
        let owned = owned_headers(headers.clone());
        let at = Timestamp::NotAvailable;
        let record = OwnedMessage::new(None, None, String::new(), at, 0, 0, Some(owned));
        let read: Vec<_> =
            headers_of(&record).map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect();
        assert_eq!(read, headers);
    }
}
