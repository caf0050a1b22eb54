// A journal-service in this process, as the token-service sees it: journals with uids and epochs,
// a log of what was called, and ways to hold calls up and to fail them.
#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "intermezzo/journal/v1/journal.grpc.pb.h"

namespace intermezzo::tests {

class FakeJournal final : public journal::v1::JournalService::Service {
 public:
  // Serves on a free port, or on `port`.
  explicit FakeJournal(int port = 0) : port_(port) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials(),
                             &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeJournal() override {
    HoldFences(false);
    server_->Shutdown();
  }

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

  // Fences wait while this is true.
  void HoldFences(bool hold) {
    absl::MutexLock lock(&mu_);
    hold_ = hold;
  }
  void AwaitHeldFence() {
    absl::MutexLock lock(&mu_);
    auto held = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return waiting_ > 0; };
    mu_.Await(absl::Condition(&held));
  }
  // All calls fail with this code; OK for none.
  void FailWith(grpc::StatusCode code) {
    absl::MutexLock lock(&mu_);
    failure_ = code;
  }
  void SetEpoch(const std::string& collection, uint64_t epoch) {
    absl::MutexLock lock(&mu_);
    journals_[collection].epoch = epoch;
  }
  void SetHead(const std::string& collection, uint64_t head) {
    absl::MutexLock lock(&mu_);
    journals_[collection].head = head;
  }
  uint64_t epoch(const std::string& collection) const {
    absl::MutexLock lock(&mu_);
    auto it = journals_.find(collection);
    return it == journals_.end() ? 0 : it->second.epoch;
  }
  bool Has(const std::string& collection) const {
    absl::MutexLock lock(&mu_);
    return journals_.contains(collection);
  }
  // Successful calls, "fence www 3" and the like.
  std::vector<std::string> log() const {
    absl::MutexLock lock(&mu_);
    return log_;
  }

 private:
  struct OneJournal {
    uint64_t uid = 0;
    uint64_t epoch = 0;
    uint64_t head = 0;
  };

  grpc::Status CreateJournal(grpc::ServerContext*, const journal::v1::CreateJournalRequest* request,
                             journal::v1::CreateJournalResponse*) override {
    absl::MutexLock lock(&mu_);
    if (failure_ != grpc::OK) return {failure_, "told to fail"};
    auto [it, added] = journals_.try_emplace(request->collection());
    if (added) it->second.uid = request->uid();
    if (it->second.uid != request->uid()) return {grpc::ALREADY_EXISTS, "another uid"};
    log_.push_back(absl::StrCat("create ", request->collection(), " ", request->uid()));
    return grpc::Status::OK;
  }
  grpc::Status DeleteJournal(grpc::ServerContext*, const journal::v1::DeleteJournalRequest* request,
                             journal::v1::DeleteJournalResponse*) override {
    absl::MutexLock lock(&mu_);
    if (failure_ != grpc::OK) return {failure_, "told to fail"};
    journals_.erase(request->collection());
    log_.push_back(absl::StrCat("delete ", request->collection()));
    return grpc::Status::OK;
  }
  grpc::Status Fence(grpc::ServerContext*, const journal::v1::FenceRequest* request,
                     journal::v1::FenceResponse* response) override {
    absl::MutexLock lock(&mu_);
    ++waiting_;
    auto go = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !hold_; };
    mu_.Await(absl::Condition(&go));
    --waiting_;
    if (failure_ != grpc::OK) return {failure_, "told to fail"};
    auto it = journals_.find(request->collection());
    if (it == journals_.end()) return {grpc::NOT_FOUND, "no such journal"};
    if (request->epoch() < it->second.epoch) return {grpc::FAILED_PRECONDITION, "higher epoch"};
    it->second.epoch = request->epoch();
    response->set_head_seq(it->second.head);
    log_.push_back(absl::StrCat("fence ", request->collection(), " ", request->epoch()));
    return grpc::Status::OK;
  }
  grpc::Status GetJournal(grpc::ServerContext*, const journal::v1::GetJournalRequest* request,
                          journal::v1::GetJournalResponse* response) override {
    absl::MutexLock lock(&mu_);
    auto it = journals_.find(request->collection());
    if (it == journals_.end()) return {grpc::NOT_FOUND, "no such journal"};
    response->mutable_journal()->set_collection(request->collection());
    response->mutable_journal()->set_uid(it->second.uid);
    response->mutable_journal()->set_epoch(it->second.epoch);
    response->mutable_journal()->set_head_seq(it->second.head);
    return grpc::Status::OK;
  }

  mutable absl::Mutex mu_;
  bool hold_ ABSL_GUARDED_BY(mu_) = false;
  int waiting_ ABSL_GUARDED_BY(mu_) = 0;
  grpc::StatusCode failure_ ABSL_GUARDED_BY(mu_) = grpc::OK;
  std::map<std::string, OneJournal> journals_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> log_ ABSL_GUARDED_BY(mu_);

  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace intermezzo::tests
