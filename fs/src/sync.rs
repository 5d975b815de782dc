//! The locks of this crate, from one place: parking_lot's, and in the crate's own tests those of a scheduler that tries out in which order
//! threads get them (`models`).

#[cfg(not(test))]
pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock};

#[cfg(test)]
pub(crate) use modelled::{Mutex, MutexGuard, RwLock};

/// What parking_lot offers, made of what shuttle does: each call is a moment at which another thread may go on.
#[cfg(test)]
mod modelled {
    pub(crate) use shuttle::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Mutex<T> {
            Mutex(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("a thread that failed ends the test")
        }
    }

    pub(crate) struct RwLock<T>(shuttle::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> RwLock<T> {
            RwLock(shuttle::sync::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().expect("a thread that failed ends the test")
        }

        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().expect("a thread that failed ends the test")
        }
    }
}
