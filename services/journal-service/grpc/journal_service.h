// JournalService over gRPC, by the callback API: no thread waits for a stream.
//
// Owned by the process; outlives the gRPC server, and is outlived by the store.
#pragma once

#include <functional>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "intermezzo/journal/v1/journal.grpc.pb.h"
#include "services/journal-service/core/journal.h"
#include "services/journal-service/core/observer.h"
#include "services/journal-service/grpc/append_stream.h"
#include "services/journal-service/grpc/subscribe_stream.h"
#include "services/journal-service/grpc/worker_pool.h"

namespace intermezzo::journal {

class JournalGrpcService final : public v1::JournalService::CallbackService {
 public:
  struct Options {
    Clock clock;                          // required
    JournalObserver* observer = nullptr;  // outlives the service; null: nobody
    absl::Duration heartbeat = absl::Seconds(1);
    int workers = 4;
    size_t max_queued_calls = 4096;
  };
  JournalGrpcService(JournalStore& store, Options options);
  ~JournalGrpcService() override;

  // Ends all streams, refuses new ones with UNAVAILABLE, waits until they are gone or the timeout.
  void Drain(absl::Duration timeout);

  grpc::ServerUnaryReactor* CreateJournal(grpc::CallbackServerContext* context,
                                          const v1::CreateJournalRequest* request,
                                          v1::CreateJournalResponse* response) override;
  grpc::ServerUnaryReactor* DeleteJournal(grpc::CallbackServerContext* context,
                                          const v1::DeleteJournalRequest* request,
                                          v1::DeleteJournalResponse* response) override;
  grpc::ServerBidiReactor<v1::AppendRequest, v1::AppendResponse>* Append(
      grpc::CallbackServerContext* context) override;
  grpc::ServerWriteReactor<v1::SubscribeResponse>* Subscribe(
      grpc::CallbackServerContext* context, const v1::SubscribeRequest* request) override;
  grpc::ServerUnaryReactor* Fence(grpc::CallbackServerContext* context,
                                  const v1::FenceRequest* request,
                                  v1::FenceResponse* response) override;
  grpc::ServerUnaryReactor* GetJournal(grpc::CallbackServerContext* context,
                                       const v1::GetJournalRequest* request,
                                       v1::GetJournalResponse* response) override;
  grpc::ServerUnaryReactor* ListEntries(grpc::CallbackServerContext* context,
                                        const v1::ListEntriesRequest* request,
                                        v1::ListEntriesResponse* response) override;
  grpc::ServerUnaryReactor* SetCursors(grpc::CallbackServerContext* context,
                                       const v1::SetCursorsRequest* request,
                                       v1::SetCursorsResponse* response) override;

 private:
  absl::StatusOr<std::shared_ptr<Journal>> Find(const std::string& collection);
  // Answers with what `call` returns, from a worker.
  grpc::ServerUnaryReactor* OnWorker(grpc::CallbackServerContext* context,
                                     std::function<absl::Status()> call);
  void TickLoop();

  JournalStore& store_;
  const Options options_;
  JournalObserver nobody_;
  WorkerPool workers_;
  const SubscribeStream::Surroundings around_;

  absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t next_stream_ ABSL_GUARDED_BY(mu_) = 1;
  absl::flat_hash_map<uint64_t, std::weak_ptr<AppendStream>> appends_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<uint64_t, std::weak_ptr<SubscribeStream>> subscribes_ ABSL_GUARDED_BY(mu_);

  std::thread ticker_;
};

}  // namespace intermezzo::journal
