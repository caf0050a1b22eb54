// ThreadSanitizer, abseil's locks and the references to a Status. Debian's abseil is not built with
// the sanitizer, so it would see no order between threads that use absl::Mutex, and call everything
// that a mutex guards a race; and none between two that drop their references to one Status. In
// builds with INTERMEZZO_SANITIZE=thread the linker sends our calls of the functions below here
// (--wrap, list in Toolchain.cmake); each tells the sanitizer what the call means and makes it.
// Names are the mangled ones of Debian 12's abseil.
#include <sanitizer/tsan_interface.h>

#include <cstdint>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

// What a function NAME is linked to, and what it was.
#define WRAPPED(name) __wrap__ZN4absl7debian3##name
#define REAL(name) __real__ZN4absl7debian3##name
#define WRAPPED_CONST(name) __wrap__ZNK4absl7debian3##name
#define REAL_CONST(name) __real__ZNK4absl7debian3##name

using absl::Condition;
using absl::Duration;
using absl::Mutex;

namespace {

// Between Begin and end the sanitizer ignores what the thread does: conditions that abseil
// evaluates are not checked for races, whichever thread evaluates them.
class Locking {
 public:
  Locking(void* mutex, unsigned flags) : mutex_(mutex), flags_(flags) {
    __tsan_mutex_pre_lock(mutex_, flags_);
  }
  ~Locking() { __tsan_mutex_post_lock(mutex_, flags_, 0); }
  void Failed() { flags_ |= __tsan_mutex_try_lock_failed; }

 private:
  void* const mutex_;
  unsigned flags_;
};

// For calls that release the lock while they wait.
class Waiting {
 public:
  explicit Waiting(void* mutex) : locking_(Released(mutex), 0) {}

 private:
  static void* Released(void* mutex) {
    __tsan_mutex_pre_unlock(mutex, 0);
    __tsan_mutex_post_unlock(mutex, 0);
    return mutex;
  }
  Locking locking_;
};

// A Notification's flag: it lies behind its mutex. HasBeenNotified is inline, and an acquiring load
// of the flag that the sanitizer sees by itself.
void* FlagOf(const void* notification) {
  return const_cast<char*>(static_cast<const char*>(notification)) + sizeof(Mutex);
}

// One thread at a time drops its reference, so that the one that drops the last has seen all others
// drop theirs. The sanitizer does not see the lock: it would take it for an order between
// everybody.
bool unref_lock = false;
__attribute__((no_sanitize("thread"))) void LockUnref() {
  while (__atomic_test_and_set(&unref_lock, __ATOMIC_ACQUIRE)) {
  }
}
__attribute__((no_sanitize("thread"))) void UnlockUnref() {
  __atomic_clear(&unref_lock, __ATOMIC_RELEASE);
}

}  // namespace

extern "C" {

void REAL(6Status15UnrefNonInlinedEm)(uintptr_t rep);
void WRAPPED(6Status15UnrefNonInlinedEm)(uintptr_t rep) {
  void* const counted = reinterpret_cast<void*>(rep);
  LockUnref();
  __tsan_release(counted);
  __tsan_acquire(counted);
  REAL(6Status15UnrefNonInlinedEm)(rep);
  UnlockUnref();
}

void REAL(5Mutex4LockEv)(void* mu);
void WRAPPED(5Mutex4LockEv)(void* mu) {
  Locking locking(mu, 0);
  REAL(5Mutex4LockEv)(mu);
}

bool REAL(5Mutex7TryLockEv)(void* mu);
bool WRAPPED(5Mutex7TryLockEv)(void* mu) {
  Locking locking(mu, __tsan_mutex_try_lock);
  const bool locked = REAL(5Mutex7TryLockEv)(mu);
  if (!locked) locking.Failed();
  return locked;
}

void REAL(5Mutex6UnlockEv)(void* mu);
void WRAPPED(5Mutex6UnlockEv)(void* mu) {
  __tsan_mutex_pre_unlock(mu, 0);
  REAL(5Mutex6UnlockEv)(mu);
  __tsan_mutex_post_unlock(mu, 0);
}

void REAL(5Mutex10ReaderLockEv)(void* mu);
void WRAPPED(5Mutex10ReaderLockEv)(void* mu) {
  Locking locking(mu, __tsan_mutex_read_lock);
  REAL(5Mutex10ReaderLockEv)(mu);
}

void REAL(5Mutex12ReaderUnlockEv)(void* mu);
void WRAPPED(5Mutex12ReaderUnlockEv)(void* mu) {
  __tsan_mutex_pre_unlock(mu, __tsan_mutex_read_lock);
  REAL(5Mutex12ReaderUnlockEv)(mu);
  __tsan_mutex_post_unlock(mu, __tsan_mutex_read_lock);
}

void REAL(5Mutex8LockWhenERKNS0_9ConditionE)(void* mu, const Condition* condition);
void WRAPPED(5Mutex8LockWhenERKNS0_9ConditionE)(void* mu, const Condition* condition) {
  Locking locking(mu, 0);
  REAL(5Mutex8LockWhenERKNS0_9ConditionE)(mu, condition);
}

bool REAL(5Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE)(void* mu,
                                                                       const Condition* condition,
                                                                       Duration timeout);
bool WRAPPED(5Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE)(
    void* mu, const Condition* condition, Duration timeout) {
  Locking locking(mu, 0);
  return REAL(5Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE)(mu, condition, timeout);
}

bool REAL(5Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE)(void* mu,
                                                                    const Condition* condition,
                                                                    absl::Time deadline);
bool WRAPPED(5Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE)(void* mu,
                                                                       const Condition* condition,
                                                                       absl::Time deadline) {
  Locking locking(mu, 0);
  return REAL(5Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE)(mu, condition, deadline);
}

void REAL(5Mutex5AwaitERKNS0_9ConditionE)(void* mu, const Condition* condition);
void WRAPPED(5Mutex5AwaitERKNS0_9ConditionE)(void* mu, const Condition* condition) {
  Waiting waiting(mu);
  REAL(5Mutex5AwaitERKNS0_9ConditionE)(mu, condition);
}

bool REAL(5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE)(void* mu,
                                                                    const Condition* condition,
                                                                    Duration timeout);
bool WRAPPED(5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE)(void* mu,
                                                                       const Condition* condition,
                                                                       Duration timeout) {
  Waiting waiting(mu);
  return REAL(5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE)(mu, condition, timeout);
}

bool REAL(5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE)(void* mu,
                                                                 const Condition* condition,
                                                                 absl::Time deadline);
bool WRAPPED(5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE)(void* mu,
                                                                    const Condition* condition,
                                                                    absl::Time deadline) {
  Waiting waiting(mu);
  return REAL(5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE)(mu, condition, deadline);
}

void REAL(5MutexD1Ev)(void* mu);
void WRAPPED(5MutexD1Ev)(void* mu) {
  REAL(5MutexD1Ev)(mu);
  __tsan_mutex_destroy(mu, 0);
}

void REAL(7CondVar4WaitEPNS0_5MutexE)(void* condvar, void* mu);
void WRAPPED(7CondVar4WaitEPNS0_5MutexE)(void* condvar, void* mu) {
  Waiting waiting(mu);
  REAL(7CondVar4WaitEPNS0_5MutexE)(condvar, mu);
}

bool REAL(7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE)(void* condvar, void* mu,
                                                                Duration timeout);
bool WRAPPED(7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE)(void* condvar, void* mu,
                                                                   Duration timeout) {
  Waiting waiting(mu);
  return REAL(7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE)(condvar, mu, timeout);
}

bool REAL(7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE)(void* condvar, void* mu,
                                                             absl::Time deadline);
bool WRAPPED(7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE)(void* condvar, void* mu,
                                                                absl::Time deadline) {
  Waiting waiting(mu);
  return REAL(7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE)(condvar, mu, deadline);
}

void REAL(12Notification6NotifyEv)(void* notification);
void WRAPPED(12Notification6NotifyEv)(void* notification) {
  __tsan_release(FlagOf(notification));
  REAL(12Notification6NotifyEv)(notification);
}

void REAL_CONST(12Notification19WaitForNotificationEv)(const void* notification);
void WRAPPED_CONST(12Notification19WaitForNotificationEv)(const void* notification) {
  REAL_CONST(12Notification19WaitForNotificationEv)(notification);
  __tsan_acquire(FlagOf(notification));
}

bool REAL_CONST(12Notification30WaitForNotificationWithTimeoutENS0_8DurationE)(
    const void* notification, Duration timeout);
bool WRAPPED_CONST(12Notification30WaitForNotificationWithTimeoutENS0_8DurationE)(
    const void* notification, Duration timeout) {
  const bool notified = REAL_CONST(12Notification30WaitForNotificationWithTimeoutENS0_8DurationE)(
      notification, timeout);
  if (notified) __tsan_acquire(FlagOf(notification));
  return notified;
}

bool REAL_CONST(12Notification31WaitForNotificationWithDeadlineENS0_4TimeE)(
    const void* notification, absl::Time deadline);
bool WRAPPED_CONST(12Notification31WaitForNotificationWithDeadlineENS0_4TimeE)(
    const void* notification, absl::Time deadline) {
  const bool notified = REAL_CONST(12Notification31WaitForNotificationWithDeadlineENS0_4TimeE)(
      notification, deadline);
  if (notified) __tsan_acquire(FlagOf(notification));
  return notified;
}

void REAL(12NotificationD1Ev)(void* notification);
void WRAPPED(12NotificationD1Ev)(void* notification) {
  REAL(12NotificationD1Ev)(notification);
  __tsan_mutex_destroy(notification, 0);
}

void REAL(15BlockingCounter4WaitEv)(void* counter);
void WRAPPED(15BlockingCounter4WaitEv)(void* counter) {
  REAL(15BlockingCounter4WaitEv)(counter);
  __tsan_acquire(counter);
}

bool REAL(15BlockingCounter14DecrementCountEv)(void* counter);
bool WRAPPED(15BlockingCounter14DecrementCountEv)(void* counter) {
  __tsan_release(counter);
  return REAL(15BlockingCounter14DecrementCountEv)(counter);
}

}  // extern "C"
