#include "services/forwarder-service/grpc/snapshot_sessions.h"

#include <sys/random.h>

#include <utility>

#include "absl/strings/escaping.h"
#include "services/common/log/log.h"

namespace intermezzo::forwarder {
namespace {

std::string UnguessableName() {
  char bytes[16];
  // Up to 256 bytes come whole, once the system has started.
  if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) log::Fatal("no random bytes");
  return absl::BytesToHexString(absl::string_view(bytes, sizeof bytes));
}

}  // namespace

std::string SnapshotSessions::Add(std::weak_ptr<SnapshotRelay> relay) {
  std::string session = UnguessableName();
  absl::MutexLock lock(&mu_);
  waiting_.emplace(session, std::move(relay));
  return session;
}

std::shared_ptr<SnapshotRelay> SnapshotSessions::Take(const std::string& session) {
  absl::MutexLock lock(&mu_);
  auto found = waiting_.extract(session);
  return found ? found.mapped().lock() : nullptr;
}

void SnapshotSessions::Remove(const std::string& session) {
  absl::MutexLock lock(&mu_);
  waiting_.erase(session);
}

}  // namespace intermezzo::forwarder
