#include "services/forwarder-service/grpc/journal_poller.h"

#include <grpcpp/client_context.h>

#include "services/common/log/log.h"
#include "services/common/status/status.h"
#include "services/forwarder-service/grpc/collection.h"
#include "services/forwarder-service/grpc/directory.h"

namespace intermezzo::forwarder {

using Journal = journal::v1::JournalService::StubInterface;

void JournalPoller::Start() {
  thread_ = std::thread([this] { Run(); });
}

void JournalPoller::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopped_ = true;
    if (calling_ != nullptr) calling_->TryCancel();
  }
  if (thread_.joinable()) thread_.join();
}

void JournalPoller::Run() {
  bool failed = false;
  while (true) {
    std::vector<std::shared_ptr<Collection>> all = environment_.directory->All();
    absl::Status first_error;
    for (const auto& collection : all) {
      first_error.Update(Poll(*collection));
      // Not one timeout per collection.
      if (absl::IsUnavailable(first_error) || absl::IsDeadlineExceeded(first_error)) break;
    }
    if (!first_error.ok() && !failed) {
      log::Warning("the journal cannot be asked", {{"error", first_error.ToString()}});
    }
    failed = !first_error.ok();
    std::erase_if(told_, [&](const auto& told) {
      for (const auto& collection : all) {
        if (collection->name() == told.first) return false;
      }
      return true;
    });

    absl::MutexLock lock(&mu_);
    mu_.AwaitWithTimeout(absl::Condition(&stopped_), environment_.options.poll);
    if (stopped_) return;
  }
}

absl::Status JournalPoller::Poll(Collection& collection) {
  if (absl::Status status = AskHead(collection); !status.ok()) return status;
  if (absl::Status status = AskCommitTimes(collection); !status.ok()) return status;
  return TellCursors(collection);
}

absl::Status JournalPoller::AskHead(Collection& collection) {
  journal::v1::GetJournalRequest request;
  request.set_collection(collection.name());
  journal::v1::GetJournalResponse response;
  if (absl::Status status = Call(&Journal::GetJournal, request, &response); !status.ok()) {
    return status;
  }
  const journal::v1::Journal& journal = response.journal();
  if (journal.uid() != collection.uid()) {
    return absl::FailedPreconditionError("the journal is of another collection of that name");
  }
  collection.JournalSeen({Seq(journal.head_seq()), journal.head_bytes()}, Seq(journal.first_seq()));
  return absl::OkStatus();
}

absl::Status JournalPoller::AskCommitTimes(Collection& collection) {
  std::map<Seq, absl::Time> known;
  for (const auto& [node, seq] : collection.WantedCommitTimes()) {
    if (!known.contains(seq)) {
      journal::v1::ListEntriesRequest request;
      request.set_collection(collection.name());
      request.set_from_seq(seq.value());
      request.set_page_size(1);
      journal::v1::ListEntriesResponse response;
      absl::Status status = Call(&Journal::ListEntries, request, &response);
      if (absl::IsOutOfRange(status)) {
        // Trimmed: its age is at least that of the first one kept.
        request.set_from_seq(0);
        status = Call(&Journal::ListEntries, request, &response);
      }
      if (!status.ok()) return status;
      if (response.entries().empty()) continue;
      known[seq] = CommittedAt(response.entries(0).committed_ns(), response.now_ns(),
                               environment_.options.clock());
    }
    collection.CommitTimeKnown(node, seq, known[seq]);
  }
  return absl::OkStatus();
}

absl::Status JournalPoller::TellCursors(Collection& collection) {
  std::vector<std::pair<std::string, Seq>> cursors = collection.Cursors();
  absl::Time now = environment_.options.clock();
  auto told = told_.find(collection.name());
  if (told != told_.end() && told->second.uid == collection.uid() &&
      told->second.cursors == cursors &&
      now - told->second.at < environment_.options.repeat_cursors) {
    return absl::OkStatus();
  }
  journal::v1::SetCursorsRequest request;
  request.set_collection(collection.name());
  for (const auto& [node, seq] : cursors) {
    journal::v1::Cursor& cursor = *request.add_cursors();
    cursor.set_node(node);
    cursor.set_seq(seq.value());
  }
  journal::v1::SetCursorsResponse response;
  if (absl::Status status = Call(&Journal::SetCursors, request, &response); !status.ok()) {
    return status;
  }
  told_[collection.name()] = {collection.uid(), std::move(cursors), now};
  return absl::OkStatus();
}

template <typename Method, typename Request, typename Response>
absl::Status JournalPoller::Call(Method method, const Request& request, Response* response) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + environment_.options.call_timeout));
  {
    absl::MutexLock lock(&mu_);
    if (stopped_) return absl::CancelledError("stopping");
    calling_ = &context;
  }
  grpc::Status status = (environment_.journal.get()->*method)(&context, request, response);
  absl::MutexLock lock(&mu_);
  calling_ = nullptr;
  return FromGrpc(status);
}

}  // namespace intermezzo::forwarder
