// What all parts of the forwarder share. One per service, kept alive by every open call.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "intermezzo/journal/v1/journal.grpc.pb.h"
#include "services/forwarder-service/core/replica_progress.h"
#include "services/forwarder-service/grpc/open_calls.h"
#include "services/forwarder-service/grpc/timers.h"

namespace intermezzo::forwarder {

// A clock that never goes back and has nothing to do with the time of day.
absl::Time MonotonicNow();

struct Options {
  Window window;
  // Each stream carries at least one message in this time.
  absl::Duration heartbeat = absl::Seconds(1);
  // A replica that says nothing for so long is away.
  absl::Duration silent_after = absl::Seconds(10);
  // How long a stream may take to say hello.
  absl::Duration hello_within = absl::Seconds(10);
  // Period of asking the registry, and of telling and asking the journal.
  absl::Duration poll = absl::Seconds(1);
  // Cursors that have not changed are told again after this time, for a journal that restarted.
  absl::Duration repeat_cursors = absl::Seconds(10);
  // Limit of one unary call to the registry or the journal.
  absl::Duration call_timeout = absl::Seconds(5);
  // How long a source may take to open ServeSnapshot before the next one is asked.
  absl::Duration serve_within = absl::Seconds(10);
  // A snapshot in which nothing moves for so long is ended.
  absl::Duration snapshot_idle = absl::Minutes(10);
  // First and longest wait before the journal is tried again.
  absl::Duration retry_first = absl::Milliseconds(50);
  absl::Duration retry_longest = absl::Seconds(2);
  // A stream that was ended but cannot get its last messages through is cut off after this time.
  absl::Duration cut_off = absl::Seconds(5);
  std::function<absl::Time()> clock = MonotonicNow;
  std::function<absl::Time()> wall_clock = absl::Now;
};

class Directory;
class SnapshotSessions;

struct Environment {
  Options options;
  std::unique_ptr<journal::v1::JournalService::StubInterface> journal;
  // Outlives the environment in the hands of a call that ends: a call lets go of the environment
  // before it says that it is over, so that the last to let go is the service and not one of gRPC's
  // threads (which would end a channel on a thread that the channel's end waits for).
  const std::shared_ptr<OpenCalls> calls = std::make_shared<OpenCalls>();
  Timers timers;
  std::unique_ptr<Directory> directory;
  std::unique_ptr<SnapshotSessions> snapshots;
  std::atomic<StreamId> last_stream{0};

  Environment();
  ~Environment();
};

}  // namespace intermezzo::forwarder
