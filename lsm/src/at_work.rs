//! Which trees the current thread works for, so that a thread does not wait for itself.
//!
//! A job calls into the companion, and what the companion calls may close the tree, or drop the last
//! handle of it. That thread must not wait for its own job, nor for a thread that waits for it.

use std::cell::RefCell;
use std::marker::PhantomData;

use crate::companion::Companion;
use crate::shared::Shared;

thread_local! {
    /// Addresses of the trees, in the order in which the work was begun.
    static TREES: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// As long as it lives, the current thread is in a job of the tree, a part of one or an installation.
pub(crate) struct AtWork(PhantomData<*const ()>);

impl AtWork {
    pub(crate) fn begin<C: Companion>(shared: &Shared<C>) -> AtWork {
        TREES.with(|trees| trees.borrow_mut().push(address(shared)));
        AtWork(PhantomData)
    }

    /// Whether the current thread works for this tree.
    pub(crate) fn is_begun<C: Companion>(shared: &Shared<C>) -> bool {
        // A thread that comes to its end works for nobody.
        TREES.try_with(|trees| trees.borrow().contains(&address(shared))).unwrap_or(false)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        // Its own entry: guards of one thread go in the reverse order.
        let _ = TREES.try_with(|trees| trees.borrow_mut().pop());
    }
}

fn address<C: Companion>(shared: &Shared<C>) -> usize {
    std::ptr::from_ref(shared).addr()
}
