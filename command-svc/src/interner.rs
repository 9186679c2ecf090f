//! The texts of a batch that repeat, each kept once under a number. Pure.

use std::collections::HashMap;
use std::sync::Arc;

/// Keeps texts and numbers them from 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interner {
    numbers: HashMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
    last: u32,
}

impl Interner {
    /// Returns the number of a text; a text that is new must pass a check first.
    ///
    /// # Errors
    /// The check's own.
    pub(crate) fn number<E>(&mut self, text: &str, check: fn(&str) -> Result<(), E>) -> Result<u32, E> {
        // Neighbours often agree.
        if self.texts.get(self.last as usize).is_some_and(|last| **last == *text) {
            return Ok(self.last);
        }
        if let Some(number) = self.numbers.get(text) {
            self.last = *number;
            return Ok(*number);
        }
        check(text)?;
        let number = u32::try_from(self.texts.len()).expect("a batch holds fewer names than bytes");
        let text: Arc<str> = text.into();
        self.texts.push(Arc::clone(&text));
        self.numbers.insert(text, number);
        self.last = number;
        Ok(number)
    }

    /// Returns the text of a number that this has given out.
    pub(crate) fn text(&self, number: u32) -> &str {
        &self.texts[number as usize]
    }

    /// Returns the place of each number's text in the order of texts.
    pub(crate) fn ranks(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..).take(self.texts.len()).collect();
        order.sort_unstable_by_key(|number| self.text(*number));
        let mut ranks = vec![0; order.len()];
        for (rank, number) in (0..).zip(order) {
            ranks[number as usize] = rank;
        }
        ranks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_that_fails_its_check_gets_no_number() {
        let mut names = Interner::default();
        assert_eq!(names.number("a", |_| Err("no")), Err("no"));
        assert_eq!(names.number("a", |_| Ok::<_, &str>(())), Ok(0));
        assert_eq!(names.number("a", |_| Err("not asked again")), Ok(0));
    }

    proptest! {
        #[test]
        fn equal_texts_share_a_number_and_ranks_are_in_order(texts in prop::collection::vec("[a-c]{0,2}", 0..30)) {
            let mut names = Interner::default();
            let numbers: Vec<u32> =
                texts.iter().map(|text| names.number(text, |_| Ok::<_, ()>(())).unwrap()).collect();
            let ranks = names.ranks();
            for (one, number) in texts.iter().zip(&numbers) {
                prop_assert_eq!(names.text(*number), one);
                for (other, other_number) in texts.iter().zip(&numbers) {
                    let (rank, other_rank) = (ranks[*number as usize], ranks[*other_number as usize]);
                    prop_assert_eq!(one.cmp(other), rank.cmp(&other_rank));
                }
            }
        }
    }
}
