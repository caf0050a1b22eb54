// What the forwarder tells and asks the journal once per Options::poll, on a thread of its own and
// off the way of entries: the replicas' cursors (SetCursors), the head (GetJournal), and the commit
// times that the lag of absent replicas needs (ListEntries).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/forwarder-service/grpc/environment.h"

namespace intermezzo::forwarder {

class Collection;

class JournalPoller {
 public:
  // `environment` outlives it.
  explicit JournalPoller(Environment& environment) : environment_(environment) {}
  ~JournalPoller() { Stop(); }

  void Start();
  void Stop();

 private:
  struct Told {
    uint64_t uid = 0;
    std::vector<std::pair<std::string, Seq>> cursors;
    absl::Time at;
  };

  void Run();
  // Stops at the first error; the round is then over for this collection.
  absl::Status Poll(Collection& collection);
  absl::Status AskHead(Collection& collection);
  absl::Status AskCommitTimes(Collection& collection);
  absl::Status TellCursors(Collection& collection);
  // One unary call of the journal's stub, which Stop() can cancel.
  template <typename Method, typename Request, typename Response>
  absl::Status Call(Method method, const Request& request, Response* response);

  Environment& environment_;
  // Only the thread.
  std::map<std::string, Told> told_;

  absl::Mutex mu_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  grpc::ClientContext* calling_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::thread thread_;
};

}  // namespace intermezzo::forwarder
