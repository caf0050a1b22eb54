// A replica's three links to the server, as the session sees them. grpc/ implements them; tests
// have others. Each is owned by the session and used by it alone.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "intermezzo/record/v1/record.pb.h"
#include "services/common/types/numbers.h"

namespace intermezzo::forwarder::v1 {
class Entries;
class Hello;
}  // namespace intermezzo::forwarder::v1

namespace intermezzo::sidecar {

// The token of one collection. Calls return at once; `done` runs on any thread, exactly once, and
// not after the client is destroyed (the destructor cancels and waits).
class TokenClient {
 public:
  struct Grant {
    Epoch epoch;
    Seq head;
    absl::Duration lease;
  };
  struct Renewal {
    absl::Duration lease;
    bool recalled = false;
  };
  virtual ~TokenClient() = default;
  // At most one at a time.
  virtual void Acquire(absl::Duration timeout, std::function<void(absl::StatusOr<Grant>)> done) = 0;
  // Ends it, if there is one, with CANCELLED.
  virtual void CancelAcquire() = 0;
  virtual void Renew(Epoch epoch, std::function<void(absl::StatusOr<Renewal>)> done) = 0;
  virtual void Release(Epoch epoch, std::function<void(absl::Status)> done) = 0;
};

// Sends local records to the journal. Reconnects by itself and sends again from the last confirmed
// one; the journal drops what it has.
class AppendStream {
 public:
  class Handler {
   public:
    virtual ~Handler() = default;
    // Everything up to `origin_seq` is in the journal.
    virtual void Confirmed(uint64_t origin_seq) = 0;
    // The journal refuses, and sending again would not help: FAILED_PRECONDITION (stale epoch),
    // ABORTED (conflict), INVALID_ARGUMENT, OUT_OF_RANGE. It has stopped.
    virtual void Refused(Epoch epoch, absl::Status status) = 0;
  };
  virtual ~AppendStream() = default;
  // Sends what there is and what comes, under `epoch`.
  virtual void Start(Epoch epoch) = 0;
  // Sends no more. What was sent may still be confirmed.
  virtual void Stop() = 0;
  // There are new local records. Never blocks.
  virtual void Wake() = 0;
};

// Receives forwarded entries. Connects, and connects anew with backoff, by itself.
class ForwardStream {
 public:
  class Handler {
   public:
    virtual ~Handler() = default;
    // Who asks, from which cursor on.
    virtual void FillHello(forwarder::v1::Hello* hello) = 0;
    // Applies. `ack` tells the server how far it is; call it from time to time during long work.
    // With an error the stream ends; it connects anew where `retry` says so.
    virtual absl::Status OnEntries(const forwarder::v1::Entries& entries,
                                   const std::function<void(Seq)>& ack) = 0;
    virtual void OnNeedsSnapshot(Seq first_seq) = 0;
    virtual void OnServe(const std::string& snapshot_session) = 0;
    // The stream ended. False: do not connect again.
    virtual bool OnEnd(const absl::Status& status) = 0;
  };
  virtual ~ForwardStream() = default;
  virtual void Start() = 0;
  // Ends the stream that is there and connects anew.
  virtual void Restart() = 0;
  // Ends it for good and waits for its thread. Not from a Handler's method.
  virtual void Shutdown() = 0;
};

}  // namespace intermezzo::sidecar
