// The journals' administration over gRPC: JournalControl with deadlines and retries. Fences wait
// for a connection rather than poll for one.
//
// Owned by the application. All methods from any thread. Shutdown must be called before whatever
// the callbacks use is destroyed.
#pragma once

#include <grpcpp/channel.h>

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "intermezzo/journal/v1/journal.grpc.pb.h"
#include "services/token-service/core/edges.h"

namespace intermezzo::token {

struct JournalClientOptions {
  // A call may take so long in all, and each attempt so long.
  absl::Duration call_timeout = absl::Seconds(5);
  absl::Duration attempt_timeout = absl::Seconds(2);
  // Wait after the first failed attempt; doubles up to the second.
  absl::Duration first_backoff = absl::Milliseconds(20);
  absl::Duration largest_backoff = absl::Milliseconds(500);
};

class JournalClient final : public JournalControl {
 public:
  JournalClient(std::shared_ptr<grpc::Channel> channel, JournalClientOptions options);
  ~JournalClient() override;

  void Fence(const std::string& collection, Epoch epoch,
             std::function<void(const FenceResult&)> done) override;
  void CreateJournal(const std::string& collection, uint64_t uid, absl::Duration retention,
                     Done done) override;
  void DeleteJournal(const std::string& collection, Done done) override;

  // Cancels what is under way, waits until every callback has returned; later calls fail at once
  // with CANCELLED.
  void Shutdown();

 private:
  struct Call;
  using Stub = journal::v1::JournalService::Stub;
  using Tried = std::function<void(grpc::Status)>;
  // Starts one attempt on the stub.
  template <typename Request, typename Response>
  using Method = std::function<void(Stub&, grpc::ClientContext*, const Request*, Response*, Tried)>;

  template <typename Request, typename Response>
  void Start(Request request, Method<Request, Response> method,
             std::function<void(const absl::Status&, const Response&)> done);
  void Try(const std::shared_ptr<Call>& call);
  void Attempted(const std::shared_ptr<Call>& call, const absl::Status& status);
  // After a refused fence: which higher epoch does the journal know?
  void AskEpoch(const std::string& collection, Epoch epoch, const absl::Status& refusal,
                const std::function<void(const FenceResult&)>& done);

  const JournalClientOptions options_;
  const std::unique_ptr<Stub> stub_;

  absl::Mutex mu_;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  std::set<std::shared_ptr<Call>> calls_ ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::token
