//! Rows in the format of a binary COPY. Pure. Source: PostgreSQL manual, COPY, binary format.
//!
//! Written here because every row takes this way: the client library's writer asks each value for its type
//! and boxes it.

use crate::columns::Columns;
use bytes::{BufMut, BytesMut};
use schema::Timestamp;

/// Columns in the order in which [`put_row`] writes them.
pub(super) const COPY: &str = "COPY readings_ingestion \
    (sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id, attributes) \
    FROM STDIN BINARY";
const FIELDS: i16 = 9;
/// Microseconds from 1970, which we count from, to 2000, which PostgreSQL counts from.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;
/// The only version of a jsonb's binary format: a text follows.
const JSONB_VERSION: u8 = 1;

/// Begins a stream.
pub(super) fn put_header(to: &mut BytesMut) {
    to.put_slice(b"PGCOPY\n\xff\r\n\0");
    to.put_u64(0); // no flags, no extension
}

/// Ends a stream.
pub(super) fn put_trailer(to: &mut BytesMut) {
    to.put_i16(-1);
}

/// Adds a row.
pub(super) fn put_row(to: &mut BytesMut, columns: &Columns<'_>, row: usize) {
    to.put_i16(FIELDS);
    put_field(to, columns.sensor_id[row].as_bytes());
    put_field(to, columns.metric[row].as_bytes());
    put_instant(to, columns.reading_at[row]);
    put_field(to, &columns.value[row].to_be_bytes());
    put_field(to, columns.event_id[row].as_bytes());
    put_instant(to, columns.received_at[row]);
    put_field(to, columns.device_type[row].as_bytes());
    put_field(to, columns.zone_id[row].as_bytes());
    match columns.attributes[row] {
        None => to.put_i32(-1),
        Some(text) => {
            put_length(to, 1 + text.len());
            to.put_u8(JSONB_VERSION);
            to.put_slice(text.as_bytes());
        }
    }
}

fn put_instant(to: &mut BytesMut, at: Timestamp) {
    put_field(to, &(at.as_micros() - POSTGRES_EPOCH_MICROS).to_be_bytes());
}

fn put_field(to: &mut BytesMut, bytes: &[u8]) {
    put_length(to, bytes.len());
    to.put_slice(bytes);
}

fn put_length(to: &mut BytesMut, length: usize) {
    to.put_i32(i32::try_from(length).expect("a field is smaller than the Kafka record that it came in"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_its_fields_in_order_each_after_its_length() {
        let at = Timestamp::from_micros(POSTGRES_EPOCH_MICROS + 1).unwrap();
        let columns = Columns {
            sensor_id: vec!["s1"],
            metric: vec!["m"],
            reading_at: vec![at],
            value: vec![1.0],
            event_id: vec![uuid::Uuid::from_u128(7)],
            received_at: vec![at],
            device_type: vec![""],
            zone_id: vec!["z"],
            attributes: vec![Some(r#"{"a":1}"#)],
        };
        let mut row = BytesMut::new();
        put_row(&mut row, &columns, 0);
        let instant = [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1];
        let mut expected = vec![0, 9, 0, 0, 0, 2, b's', b'1', 0, 0, 0, 1, b'm'];
        expected.extend(instant);
        expected.extend([0, 0, 0, 8, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16]);
        expected.extend(7_u128.to_be_bytes());
        expected.extend(instant);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 1, b'z', 0, 0, 0, 8, 1]);
        expected.extend(br#"{"a":1}"#);
        assert_eq!(row, expected);
    }
}
