//! What the cases of one topic share during a run, kept by its type, so that a session knows no topic.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// One value per type. Usually the type is a [`Memo`](crate::evidence::Memo) of the result of a step.
#[derive(Default)]
pub(super) struct TopicState(Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl TopicState {
    /// The value of this type. The first caller gets the default value, and the others the same one.
    pub(super) fn get<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let value = values
            .entry(TypeId::of::<T>())
            .or_insert_with(|| Arc::new(T::default()));
        // The key is the type of the value, so the default is never used.
        Arc::clone(value).downcast().unwrap_or_default()
    }
}

impl std::fmt::Debug for TopicState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicState").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn one_value_is_kept_per_type() {
        let state = TopicState::default();
        state.get::<AtomicU32>().store(7, Ordering::Relaxed);
        assert_eq!(state.get::<AtomicU32>().load(Ordering::Relaxed), 7);
        assert_eq!(*state.get::<String>(), "");
    }
}
