#include "services/journal-service/grpc/journal_service.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/common/record/codec.h"
#include "services/common/status/status.h"

namespace intermezzo::journal {
namespace {

constexpr int kDefaultPage = 100;
constexpr int kMaxPage = 1000;

// Ends a stream that was refused before it began.
template <typename Reactor>
class RefusedStream final : public Reactor {
 public:
  explicit RefusedStream(const absl::Status& status) { this->Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

absl::Status DrainingError() { return absl::UnavailableError("the journal-service is going down"); }

v1::Journal ToProto(const CollectionName& name, const JournalState& state) {
  v1::Journal out;
  out.set_collection(name.str());
  out.set_uid(state.uid);
  out.set_head_seq(state.head.value());
  out.set_first_seq(state.first.value());
  out.set_epoch(state.epoch.value());
  out.set_head_bytes(state.head_bytes);
  out.set_head_chain(state.head_chain);
  return out;
}

absl::StatusOr<absl::Duration> Retention(const v1::CreateJournalRequest& request) {
  const auto& retention = request.retention();
  if (retention.seconds() < 0 || retention.nanos() < 0 || retention.nanos() > 999'999'999 ||
      retention.seconds() > 100LL * 365 * 86400) {
    return absl::InvalidArgumentError("retention: must be 0 to 100 years");
  }
  return absl::Seconds(retention.seconds()) + absl::Nanoseconds(retention.nanos());
}

}  // namespace

JournalGrpcService::JournalGrpcService(JournalStore& store, Options options)
    : store_(store),
      options_(std::move(options)),
      workers_(options_.workers, options_.max_queued_calls),
      around_{store_, workers_, options_.observer != nullptr ? *options_.observer : nobody_,
              options_.clock} {
  ticker_ = std::thread([this] { TickLoop(); });
}

JournalGrpcService::~JournalGrpcService() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  ticker_.join();
}

absl::StatusOr<std::shared_ptr<Journal>> JournalGrpcService::Find(const std::string& collection) {
  auto name = CollectionName::Parse(collection);
  if (!name.ok()) return name.status();
  return store_.Find(*name);
}

grpc::ServerUnaryReactor* JournalGrpcService::OnWorker(grpc::CallbackServerContext* context,
                                                       std::function<absl::Status()> call) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (!workers_.Post([reactor, call = std::move(call)] { reactor->Finish(ToGrpc(call())); })) {
    reactor->Finish(ToGrpc(absl::UnavailableError("too many calls: try again later")));
  }
  return reactor;
}

grpc::ServerUnaryReactor* JournalGrpcService::CreateJournal(grpc::CallbackServerContext* context,
                                                            const v1::CreateJournalRequest* request,
                                                            v1::CreateJournalResponse* response) {
  return OnWorker(context, [this, request]() -> absl::Status {
    auto name = CollectionName::Parse(request->collection());
    if (!name.ok()) return name.status();
    auto retention = Retention(*request);
    if (!retention.ok()) return retention.status();
    return store_.Create(*name, request->uid(), *retention);
  });
}

grpc::ServerUnaryReactor* JournalGrpcService::DeleteJournal(grpc::CallbackServerContext* context,
                                                            const v1::DeleteJournalRequest* request,
                                                            v1::DeleteJournalResponse* response) {
  return OnWorker(context, [this, request]() -> absl::Status {
    auto name = CollectionName::Parse(request->collection());
    if (!name.ok()) return name.status();
    return store_.Delete(*name);
  });
}

grpc::ServerBidiReactor<v1::AppendRequest, v1::AppendResponse>* JournalGrpcService::Append(
    grpc::CallbackServerContext* context) {
  absl::MutexLock lock(&mu_);
  if (draining_) {
    return new RefusedStream<grpc::ServerBidiReactor<v1::AppendRequest, v1::AppendResponse>>(
        DrainingError());
  }
  const uint64_t id = next_stream_++;
  auto stream = AppendStream::Start(context, store_, [this, id] {
    absl::MutexLock lock(&mu_);
    appends_.erase(id);
  });
  appends_.emplace(id, stream);
  return stream.get();
}

grpc::ServerWriteReactor<v1::SubscribeResponse>* JournalGrpcService::Subscribe(
    grpc::CallbackServerContext* context, const v1::SubscribeRequest* request) {
  absl::MutexLock lock(&mu_);
  if (draining_) {
    return new RefusedStream<grpc::ServerWriteReactor<v1::SubscribeResponse>>(DrainingError());
  }
  const uint64_t id = next_stream_++;
  auto stream = SubscribeStream::Start(*request, around_, [this, id] {
    absl::MutexLock lock(&mu_);
    subscribes_.erase(id);
  });
  subscribes_.emplace(id, stream);
  return stream.get();
}

grpc::ServerUnaryReactor* JournalGrpcService::Fence(grpc::CallbackServerContext* context,
                                                    const v1::FenceRequest* request,
                                                    v1::FenceResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  auto journal = Find(request->collection());
  if (!journal.ok()) {
    reactor->Finish(ToGrpc(journal.status()));
    return reactor;
  }
  (*journal)->Fence(Epoch(request->epoch()), [reactor, response](absl::StatusOr<Seq> head) {
    if (head.ok()) response->set_head_seq(head->value());
    reactor->Finish(ToGrpc(head.status()));
  });
  return reactor;
}

grpc::ServerUnaryReactor* JournalGrpcService::GetJournal(grpc::CallbackServerContext* context,
                                                         const v1::GetJournalRequest* request,
                                                         v1::GetJournalResponse* response) {
  if (request->origin() != 0) {
    return OnWorker(context, [this, request, response]() -> absl::Status {
      auto journal = Find(request->collection());
      if (!journal.ok()) return journal.status();
      auto origin = (*journal)->Origin(Ordinal(request->origin()));
      if (!origin.ok()) return origin.status();
      response->mutable_origin()->set_last_origin_seq(origin->last_origin_seq);
      response->mutable_origin()->set_last_seq(origin->last_seq.value());
      response->mutable_origin()->set_last_xxh3(origin->last_hash);
      *response->mutable_journal() = ToProto((*journal)->name(), (*journal)->State());
      return absl::OkStatus();
    });
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  auto journal = Find(request->collection());
  if (journal.ok()) {
    *response->mutable_journal() = ToProto((*journal)->name(), (*journal)->State());
  }
  reactor->Finish(ToGrpc(journal.status()));
  return reactor;
}

grpc::ServerUnaryReactor* JournalGrpcService::ListEntries(grpc::CallbackServerContext* context,
                                                          const v1::ListEntriesRequest* request,
                                                          v1::ListEntriesResponse* response) {
  return OnWorker(context, [this, request, response]() -> absl::Status {
    auto journal = Find(request->collection());
    if (!journal.ok()) return journal.status();
    if (request->page_size() < 0) {
      return absl::InvalidArgumentError("page_size: must not be negative");
    }
    uint64_t from = request->from_seq();
    if (!request->page_token().empty() && !absl::SimpleAtoi(request->page_token(), &from)) {
      return absl::InvalidArgumentError("page_token: not one of ours");
    }
    if (from == 0) from = (*journal)->State().first.value();
    ReadOptions options;
    options.skip_payloads = true;
    options.max_bytes = kMaxBatchBytes;
    options.max_records =
        std::min(request->page_size() == 0 ? kDefaultPage : request->page_size(), kMaxPage);
    auto entries = (*journal)->Read(Seq(from), options);
    if (!entries.ok()) return entries.status();
    for (const EntryPtr& stored : *entries) *response->add_entries() = stored->entry;
    response->set_now_ns(absl::ToUnixNanos(around_.clock()));
    const uint64_t next = from + entries->size();
    if (!entries->empty() && next <= (*journal)->State().head.value()) {
      response->set_next_page_token(absl::StrCat(next));
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* JournalGrpcService::SetCursors(grpc::CallbackServerContext* context,
                                                         const v1::SetCursorsRequest* request,
                                                         v1::SetCursorsResponse* response) {
  return OnWorker(context, [this, request]() -> absl::Status {
    auto journal = Find(request->collection());
    if (!journal.ok()) return journal.status();
    std::vector<Cursor> cursors;
    for (const auto& cursor : request->cursors()) {
      auto node = NodeName::Parse(cursor.node());
      if (!node.ok()) return node.status();
      cursors.push_back({node->str(), Seq(cursor.seq())});
    }
    return (*journal)->SetCursors(std::move(cursors));
  });
}

void JournalGrpcService::TickLoop() {
  while (true) {
    std::vector<std::shared_ptr<SubscribeStream>> streams;
    {
      absl::MutexLock lock(&mu_);
      if (mu_.AwaitWithTimeout(absl::Condition(&stopping_), options_.heartbeat)) return;
      for (auto& [id, stream] : subscribes_) {
        if (auto alive = stream.lock()) streams.push_back(std::move(alive));
      }
    }
    for (auto& stream : streams) stream->Tick();
  }
}

void JournalGrpcService::Drain(absl::Duration timeout) {
  std::vector<std::shared_ptr<AppendStream>> appends;
  std::vector<std::shared_ptr<SubscribeStream>> subscribes;
  {
    absl::MutexLock lock(&mu_);
    draining_ = true;
    for (auto& [id, stream] : appends_) {
      if (auto alive = stream.lock()) appends.push_back(std::move(alive));
    }
    for (auto& [id, stream] : subscribes_) {
      if (auto alive = stream.lock()) subscribes.push_back(std::move(alive));
    }
  }
  for (auto& stream : appends) stream->Drain();
  for (auto& stream : subscribes) stream->End(DrainingError());
  appends.clear();
  subscribes.clear();
  absl::MutexLock lock(&mu_);
  const auto gone = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return appends_.empty() && subscribes_.empty();
  };
  mu_.AwaitWithTimeout(absl::Condition(&gone), timeout);
}

}  // namespace intermezzo::journal
