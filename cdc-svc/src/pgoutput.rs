//! Reads messages of PostgreSQL's `pgoutput` plugin, protocol version 1, values as text. Pure: bytes in,
//! message out.
//!
//! Begin and Commit are not here: the replication client reads them itself, because they bound what it
//! confirms.
//!
//! Source: PostgreSQL manual, "Logical Replication Message Formats".

/// Carries one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Describes a table; comes before the first change of it, and again after its columns changed.
    Relation(Relation),
    /// A row was inserted.
    Insert {
        /// Which table.
        relation_id: u32,
        /// The row.
        new: Tuple,
    },
    /// A row was updated.
    Update {
        /// Which table.
        relation_id: u32,
        /// The row before; whole when the table's replica identity is FULL, else absent.
        old: Option<Tuple>,
        /// The row after.
        new: Tuple,
    },
    /// A row was deleted.
    Delete {
        /// Which table.
        relation_id: u32,
        /// The row before; whole when the table's replica identity is FULL, else absent.
        old: Option<Tuple>,
    },
    /// All rows of some tables were deleted at once.
    Truncate {
        /// Which tables.
        relation_ids: Vec<u32>,
    },
    /// A message that carries no change of a row (type, origin).
    Other,
}

/// Describes a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// How changes name it.
    pub id: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// Its columns, in the order of every tuple.
    pub columns: Vec<Column>,
}

/// Describes a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as `pg_type.oid`.
    pub type_oid: u32,
}

/// Holds the values of one row, in the order of the relation's columns.
pub type Tuple = Vec<Cell>;

/// Holds one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// NULL.
    Null,
    /// A large value that the update did not touch and that therefore does not travel.
    Unchanged,
    /// The value in PostgreSQL's text format.
    Text(String),
}

/// Says why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("message is cut short")]
    Short,
    /// A name or value is not UTF-8.
    #[error("text is not UTF-8")]
    NotUtf8,
    /// The first byte names no message of this protocol version.
    #[error("message kind {0} is unknown")]
    UnknownMessage(u8),
    /// The byte before a tuple names no kind of tuple that may stand there.
    #[error("tuple kind {0} is unknown")]
    UnknownTuple(u8),
    /// The byte before a value names no kind of value in text format.
    #[error("value kind {0} is unknown")]
    UnknownCell(u8),
}

/// Reads one message.
///
/// # Errors
/// [`DecodeError`] says what does not fit (stop: skipping a message would lose a change).
pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
    let mut input = Input(bytes);
    match input.u8()? {
        b'R' => Ok(Message::Relation(input.relation()?)),
        b'I' => {
            let relation_id = input.u32()?;
            match input.u8()? {
                b'N' => Ok(Message::Insert { relation_id, new: input.tuple()? }),
                kind => Err(DecodeError::UnknownTuple(kind)),
            }
        }
        b'U' => input.update(),
        b'D' => {
            let relation_id = input.u32()?;
            let old = match input.u8()? {
                b'O' => Some(input.tuple()?),
                b'K' => None,
                kind => return Err(DecodeError::UnknownTuple(kind)),
            };
            Ok(Message::Delete { relation_id, old })
        }
        b'T' => {
            let count = input.u32()?;
            let _options = input.u8()?;
            // Collected one by one: the count is foreign and must not size an allocation.
            let relation_ids = (0..count).map(|_| input.u32()).collect::<Result<_, _>>()?;
            Ok(Message::Truncate { relation_ids })
        }
        b'Y' | b'O' => Ok(Message::Other),
        kind => Err(DecodeError::UnknownMessage(kind)),
    }
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(DecodeError::Short)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| DecodeError::Short)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Takes a text that ends with a zero byte.
    fn name(&mut self) -> Result<String, DecodeError> {
        let length = self.0.iter().position(|byte| *byte == 0).ok_or(DecodeError::Short)?;
        let name = self.take(length)?;
        self.take(1)?;
        text(name)
    }

    fn relation(&mut self) -> Result<Relation, DecodeError> {
        let id = self.u32()?;
        let (schema, table) = (self.name()?, self.name()?);
        let _replica_identity = self.u8()?;
        let count = self.u16()?;
        let mut columns = Vec::new();
        for _ in 0..count {
            let _flags = self.u8()?;
            let name = self.name()?;
            let type_oid = self.u32()?;
            let _modifier = self.u32()?;
            columns.push(Column { name, type_oid });
        }
        Ok(Relation { id, schema, table, columns })
    }

    fn update(&mut self) -> Result<Message, DecodeError> {
        let relation_id = self.u32()?;
        let old = match self.u8()? {
            b'N' => return Ok(Message::Update { relation_id, old: None, new: self.tuple()? }),
            b'O' => Some(self.tuple()?),
            b'K' => {
                self.tuple()?;
                None
            }
            kind => return Err(DecodeError::UnknownTuple(kind)),
        };
        match self.u8()? {
            b'N' => Ok(Message::Update { relation_id, old, new: self.tuple()? }),
            kind => Err(DecodeError::UnknownTuple(kind)),
        }
    }

    fn tuple(&mut self) -> Result<Tuple, DecodeError> {
        let count = self.u16()?;
        (0..count).map(|_| self.cell()).collect()
    }

    fn cell(&mut self) -> Result<Cell, DecodeError> {
        match self.u8()? {
            b'n' => Ok(Cell::Null),
            b'u' => Ok(Cell::Unchanged),
            b't' => {
                let length = usize::try_from(self.u32()?).map_err(|_| DecodeError::Short)?;
                Ok(Cell::Text(text(self.take(length)?)?))
            }
            kind => Err(DecodeError::UnknownCell(kind)),
        }
    }
}

fn text(bytes: &[u8]) -> Result<String, DecodeError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| DecodeError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tuple_bytes(cells: &[Cell]) -> Vec<u8> {
        let mut bytes = u16::try_from(cells.len()).unwrap().to_be_bytes().to_vec();
        for cell in cells {
            match cell {
                Cell::Null => bytes.push(b'n'),
                Cell::Unchanged => bytes.push(b'u'),
                Cell::Text(text) => {
                    bytes.push(b't');
                    bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    bytes.extend(text.as_bytes());
                }
            }
        }
        bytes
    }

    fn cells() -> impl Strategy<Value = Tuple> {
        let cell = prop_oneof![Just(Cell::Null), Just(Cell::Unchanged), any::<String>().prop_map(Cell::Text)];
        proptest::collection::vec(cell, 0..6)
    }

    #[test]
    fn relation_lists_names_and_types_of_its_columns() {
        let mut bytes = b"R\x00\x00\x40\x01public\0devices\0f\x00\x02".to_vec();
        bytes.extend(b"\x01sensor_id\0\x00\x00\x00\x19\xff\xff\xff\xff");
        bytes.extend(b"\x00version\0\x00\x00\x00\x14\xff\xff\xff\xff");
        let Ok(Message::Relation(relation)) = decode(&bytes) else { panic!("no relation") };
        assert_eq!((relation.id, relation.schema.as_str()), (0x4001, "public"));
        assert_eq!(relation.table, "devices");
        let columns: Vec<_> = relation.columns.iter().map(|c| (c.name.as_str(), c.type_oid)).collect();
        assert_eq!(columns, [("sensor_id", 25), ("version", 20)]);
    }

    #[test]
    fn truncate_names_every_table() {
        let bytes = b"T\x00\x00\x00\x02\x00\x00\x00\x00\x07\x00\x00\x00\x09";
        assert_eq!(decode(bytes), Ok(Message::Truncate { relation_ids: vec![7, 9] }));
        assert_eq!(decode(b"T\xff\xff\xff\xff\x00"), Err(DecodeError::Short));
    }

    #[test]
    fn a_key_only_old_row_is_no_row() {
        let key = tuple_bytes(&[Cell::Text("a".to_owned()), Cell::Null]);
        let bytes = [b"D\x00\x00\x00\x01K".as_slice(), &key].concat();
        assert_eq!(decode(&bytes), Ok(Message::Delete { relation_id: 1, old: None }));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_without_a_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }

        #[test]
        fn any_bytes_after_a_known_kind_never_panic(kind in "[RIUDTYO]", bytes: Vec<u8>) {
            let _ = decode(&[kind.as_bytes(), &bytes].concat());
        }

        #[test]
        fn any_row_survives_its_bytes_and_no_shorter_bytes_decode(id: u32, old in cells(), new in cells()) {
            let (old_bytes, new_bytes) = (tuple_bytes(&old), tuple_bytes(&new));
            let bytes = [b"U", id.to_be_bytes().as_slice(), b"O", &old_bytes, b"N", &new_bytes].concat();
            prop_assert_eq!(decode(&bytes), Ok(Message::Update { relation_id: id, old: Some(old), new }));
            for length in 0..bytes.len() {
                prop_assert_eq!(decode(&bytes[..length]), Err(DecodeError::Short));
            }
        }
    }
}
