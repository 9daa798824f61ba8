//! Short lists.

/// A list that most often holds a single item, which then lies inside; more take exactly the memory they need. For tables of many
/// thousands of lists.
#[derive(Clone, Debug)]
pub(crate) enum Few<T> {
    One(T),
    Many(Box<[T]>),
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::Many(Box::default())
    }
}

impl<T> Few<T> {
    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            Self::One(item) => std::slice::from_ref(item),
            Self::Many(items) => items,
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Self::One(item) => std::slice::from_mut(item),
            Self::Many(items) => items,
        }
    }

    pub(crate) fn insert(&mut self, place: usize, item: T) {
        let mut items = Vec::with_capacity(self.as_slice().len() + 1);
        items.extend(std::mem::take(self));
        items.insert(place, item);
        *self = items.into();
    }

    pub(crate) fn remove(&mut self, place: usize) -> T {
        let mut items: Vec<T> = std::mem::take(self).into_iter().collect();
        let item = items.remove(place);
        *self = items.into();
        item
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(mut items: Vec<T>) -> Self {
        match items.pop() {
            Some(item) if items.is_empty() => Self::One(item),
            Some(item) => {
                items.push(item);
                Self::Many(items.into_boxed_slice())
            }
            None => Self::default(),
        }
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::option::IntoIter<T>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        let (one, many) = match self {
            Self::One(item) => (Some(item), Vec::new()),
            Self::Many(items) => (None, items.into_vec()),
        };
        one.into_iter().chain(many)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_holds_what_a_vector_would(steps in proptest::collection::vec((any::<bool>(), any::<u8>()), 0..40)) {
            let (mut few, mut vector) = (Few::default(), Vec::new());
            for (is_insert, value) in steps {
                if is_insert || vector.is_empty() {
                    let place = usize::from(value) % (vector.len() + 1);
                    few.insert(place, value);
                    vector.insert(place, value);
                } else {
                    let place = usize::from(value) % vector.len();
                    prop_assert_eq!(few.remove(place), vector.remove(place));
                }
                prop_assert_eq!(few.as_slice(), &vector[..]);
                prop_assert_eq!(matches!(few, Few::One(_)), vector.len() == 1);
            }
        }
    }
}
