#include "services/forwarder-service/grpc/forward_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/log/log.h"
#include "services/common/record/codec.h"
#include "services/common/status/status.h"
#include "services/common/types/names.h"
#include "services/forwarder-service/grpc/ask_journal.h"
#include "services/forwarder-service/grpc/directory.h"

namespace intermezzo::forwarder {
namespace {

constexpr size_t kMaxOrders = 100;  // waiting ServeOrders of one stream
// How long a replica's own records wait for others', and how many at most.
constexpr absl::Duration kOwnHeldFor = absl::Milliseconds(20);
constexpr size_t kMaxOwnHeld = 64;

absl::Status CheckHello(const v1::Hello& hello) {
  if (auto name = CollectionName::Parse(hello.collection()); !name.ok()) return name.status();
  if (auto name = NodeName::Parse(hello.node()); !name.ok()) return name.status();
  if (hello.ordinal() == 0 || hello.ordinal() > kMaxOrdinal) {
    return absl::InvalidArgumentError(
        absl::StrCat("ordinal ", hello.ordinal(), " is not between 1 and ", kMaxOrdinal));
  }
  if (hello.cursor() == 0 ? !hello.chain().empty() : hello.chain().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("a chain value of ", hello.chain().size(),
                                                   " bytes at cursor ", hello.cursor(),
                                                   ": it is empty at 0 and only there"));
  }
  return absl::OkStatus();
}

}  // namespace

ForwardStream* ForwardStream::Start(std::shared_ptr<Environment> environment,
                                    grpc::CallbackServerContext* context) {
  auto stream = std::make_shared<ForwardStream>(std::move(environment), context);
  stream->self_ = stream;
  ForwardStream* reactor = stream.get();
  stream->StartRead(&stream->request_);
  stream->environment_->timers.After(
      stream->environment_->options.hello_within, [weak = std::weak_ptr(stream)] {
        if (auto stream = weak.lock()) {
          absl::MutexLock lock(&stream->mu_);
          if (!stream->said_hello_) {
            stream->CloseLocked(absl::DeadlineExceededError("the stream did not say hello"));
          }
        }
      });
  stream->call_ = stream->environment_->calls->Add(stream);
  return reactor;
}

ForwardStream::ForwardStream(std::shared_ptr<Environment> environment,
                             grpc::CallbackServerContext* context)
    : environment_(std::move(environment)),
      context_(context),
      id_(++environment_->last_stream),
      retry_(environment_->options.retry_first) {}

void ForwardStream::OnReadDone(bool ok) {
  absl::MutexLock lock(&mu_);
  if (finished_) return;
  if (!ok) return CloseLocked(absl::OkStatus());
  switch (request_.message_case()) {
    case v1::ForwardRequest::kHello:
      return HandleHello(std::move(*request_.mutable_hello()));
    case v1::ForwardRequest::kAck: {
      if (!collection_) {
        return CloseLocked(absl::InvalidArgumentError("the first message must be a hello"));
      }
      if (absl::Status status = collection_->Acked(hello_.node(), id_, Seq(request_.ack().seq()));
          !status.ok()) {
        return CloseLocked(status);
      }
      ReadMore();
      return StartRead(&request_);
    }
    case v1::ForwardRequest::MESSAGE_NOT_SET:
      return CloseLocked(absl::InvalidArgumentError("neither a hello nor an ack"));
  }
}

void ForwardStream::HandleHello(v1::Hello hello) {
  if (said_hello_) {
    return CloseLocked(absl::InvalidArgumentError("a second hello: open a new stream for it"));
  }
  if (absl::Status status = CheckHello(hello); !status.ok()) return CloseLocked(status);
  said_hello_ = true;
  hello_ = std::move(hello);
  Admit(/*may_refresh=*/true);
}

void ForwardStream::Admit(bool may_refresh) {
  Directory& directory = *environment_->directory;
  absl::StatusOr<std::shared_ptr<Collection>> found =
      directory.FindReplica(hello_.collection(), hello_.node(), hello_.collection_uid());
  // Before it can take over the stream of the one whose name it bears.
  absl::Status admitted = found.status();
  if (admitted.ok()) {
    admitted = directory.CheckNode(hello_.node(), hello_.instance(), hello_.ordinal());
  }
  if (!admitted.ok()) {
    if (!may_refresh) return CloseLocked(admitted);
    directory.Refresh([weak = weak_from_this()](const absl::Status& status) {
      auto stream = weak.lock();
      if (!stream) return;
      absl::MutexLock lock(&stream->mu_);
      if (stream->finished_) return;
      if (!status.ok()) {
        return stream->CloseLocked(absl::UnavailableError(
            absl::StrCat("the registry cannot be asked: ", status.message())));
      }
      stream->Admit(/*may_refresh=*/false);
    });
    return;
  }
  read_ = Seq(hello_.cursor());
  chain_ = hello_.chain();
  if (absl::Status status = (*found)->Attach(hello_.node(), id_, read_, weak_from_this(),
                                             {hello_.instance(), hello_.ordinal(), ""});
      !status.ok()) {
    return CloseLocked(status);
  }
  collection_ = *std::move(found);
  log::Info("replica connected", {{"collection", hello_.collection()},
                                  {"node", hello_.node()},
                                  {"seq", absl::StrCat(hello_.cursor())}});
  Subscribe();
  StartRead(&request_);
}

void ForwardStream::Subscribe() {
  journal::v1::SubscribeRequest request;
  request.set_collection(hello_.collection());
  request.set_from_seq(read_.value() + 1);
  request.set_previous_chain(chain_);
  request.set_skip_payloads_of(hello_.ordinal());
  reading_ = true;
  reader_ = JournalReader::Start(environment_, std::move(request), shared_from_this());
}

void ForwardStream::SubscribeLater() {
  environment_->timers.After(retry_, [weak = weak_from_this()] {
    auto stream = weak.lock();
    if (!stream) return;
    absl::MutexLock lock(&stream->mu_);
    if (!stream->finished_ && !stream->reader_ && !stream->in_tail_) stream->Subscribe();
  });
  retry_ = std::min(retry_ * 2, environment_->options.retry_longest);
}

void ForwardStream::JournalRead(JournalReader* reader, journal::v1::SubscribeResponse& message) {
  absl::MutexLock lock(&mu_);
  if (finished_ || reader != reader_.get()) return;
  reading_ = false;
  retry_ = environment_->options.retry_first;
  collection_->HeadSeen({Seq(message.head_seq()), message.head_bytes()});
  if (message.entries().empty()) return ReadMore();

  Outgoing outgoing;
  outgoing.message.mutable_entries()->set_head_seq(message.head_seq());
  outgoing.message.mutable_entries()->mutable_entries()->Swap(message.mutable_entries());
  const absl::Time now = environment_->options.clock();
  const auto committed_at = [&](const record::v1::Entry& entry) {
    return CommittedAt(entry.committed_ns(), message.now_ns(), now);
  };
  if (Forward(std::move(outgoing), committed_at)) ReadMore();
}

bool ForwardStream::Forward(
    Outgoing outgoing, absl::FunctionRef<absl::Time(const record::v1::Entry& entry)> committed_at) {
  entries_.clear();
  for (const record::v1::Entry& entry : outgoing.message.entries().entries()) {
    entries_.push_back({.seq = Seq(entry.seq()),
                        .wire_bytes = entry.record().size() + entry.payload().size(),
                        .journal_bytes = entry.record().size() + entry.payload_length(),
                        .committed_at = committed_at(entry)});
    outgoing.wire_bytes += entries_.back().wire_bytes;
  }
  if (absl::Status status = collection_->EntriesRead(hello_.node(), id_, entries_); !status.ok()) {
    CloseLocked(status);
    return false;
  }
  outgoing.last = read_ = entries_.back().seq;
  outgoing.records = entries_.size();
  chain_ = outgoing.message.entries().entries().rbegin()->chain();
  Enqueue(std::move(outgoing));
  return true;
}

void ForwardStream::JournalDone(JournalReader* reader, const absl::Status& status) {
  absl::MutexLock lock(&mu_);
  if (finished_ || reader != reader_.get()) return;
  reader_.reset();
  reading_ = false;
  switch (status.code()) {
    case absl::StatusCode::kOutOfRange:
      return HandleOutOfRange(status);
    case absl::StatusCode::kDataLoss:
      log::Error("the replica's chain is not the journal's",
                 {{"collection", hello_.collection()},
                  {"node", hello_.node()},
                  {"seq", absl::StrCat(read_.value())}});
      return CloseLocked(status);
    case absl::StatusCode::kNotFound:
      return CloseLocked(absl::FailedPreconditionError(status.message()));
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kUnimplemented:
      return CloseLocked(
          absl::InternalError(absl::StrCat("the journal refuses to be read: ", status.message())));
    default:
      // Once for a row of failures.
      if (retry_ == environment_->options.retry_first) {
        log::Warning("the journal's stream ended, trying again",
                     {{"collection", hello_.collection()},
                      {"node", hello_.node()},
                      {"error", status.ToString()}});
      }
      return SubscribeLater();
  }
}

void ForwardStream::HandleOutOfRange(const absl::Status& refusal) {
  AskJournal(
      environment_, hello_.collection(),
      [weak = weak_from_this(), refusal](const absl::StatusOr<journal::v1::Journal>& journal) {
        auto stream = weak.lock();
        if (!stream) return;
        absl::MutexLock lock(&stream->mu_);
        if (stream->finished_ || stream->reader_ || stream->in_tail_) return;
        if (!journal.ok()) return stream->SubscribeLater();
        stream->JournalRangeKnown(refusal, *journal);
      });
}

void ForwardStream::JournalRangeKnown(const absl::Status& refusal,
                                      const journal::v1::Journal& journal) {
  if (read_.value() > journal.head_seq()) {
    return CloseLocked(absl::DataLossError(
        absl::StrCat("seq ", read_.value(), " is beyond the journal's head ", journal.head_seq())));
  }
  if (read_.value() + 1 >= journal.first_seq()) {
    // It was out of range a moment ago and is not any more, or the journal errs: not at full speed.
    log::Warning("the journal refused a seq that it has",
                 {{"collection", hello_.collection()}, {"error", refusal.ToString()}});
    return SubscribeLater();
  }
  collection_->Trimmed(hello_.node(), id_, Seq(journal.first_seq()));
  log::Warning("replica needs a snapshot", {{"collection", hello_.collection()},
                                            {"node", hello_.node()},
                                            {"seq", absl::StrCat(read_.value())}});
  Outgoing outgoing;
  outgoing.message.mutable_needs_snapshot()->set_first_seq(journal.first_seq());
  Enqueue(std::move(outgoing));
}

void ForwardStream::ReadMore() {
  if (in_tail_) return ReadTail(/*own_too=*/false);
  if (finished_ || !reader_ || reading_ || !collection_->MayRead(hello_.node(), id_)) return;
  // The journal's first message has come, so this is its history.
  if (read_ >= collection_->head() &&
      collection_->tail().Join(environment_, collection_, id_, read_, chain_, weak_from_this())) {
    DropReader();
    in_tail_ = true;
    return ReadTail(/*own_too=*/false);
  }
  reading_ = true;
  reader_->Next();
}

void ForwardStream::ReadTail(bool own_too) {
  std::vector<TailEntryPtr> taken;
  while (!finished_ && collection_->MayRead(hello_.node(), id_)) {
    if (!collection_->tail().Read(read_.next(), &taken)) {
      collection_->tail().Leave(id_);
      in_tail_ = false;
      return Subscribe();
    }
    if (taken.empty()) return;
    const Ordinal self(hello_.ordinal());
    if (!own_too && taken.size() <= kMaxOwnHeld &&
        std::ranges::all_of(taken, [&](auto& kept) { return kept->origin == self; })) {
      if (std::exchange(own_waits_, true)) return;
      return environment_->timers.After(kOwnHeldFor, [weak = weak_from_this()] {
        auto stream = weak.lock();
        if (!stream) return;
        absl::MutexLock lock(&stream->mu_);
        stream->own_waits_ = false;
        if (stream->in_tail_) stream->ReadTail(/*own_too=*/true);
      });
    }
    Outgoing outgoing;
    v1::Entries& out = *outgoing.message.mutable_entries();
    out.set_head_seq(std::max(collection_->head(), Seq(taken.back()->entry.seq())).value());
    for (const TailEntryPtr& kept : taken) {
      record::v1::Entry& entry = *out.add_entries();
      if (kept->origin != self) {
        entry = kept->entry;
        continue;
      }
      // Without its payload, which the replica has.
      entry.set_seq(kept->entry.seq());
      entry.set_record(kept->entry.record());
      entry.set_codec(kept->entry.codec());
      entry.set_chain(kept->entry.chain());
      entry.set_committed_ns(kept->entry.committed_ns());
      entry.set_payload_length(kept->entry.payload_length());
    }
    const auto committed_at = [&](const auto& entry) {
      return taken[entry.seq() - taken.front()->entry.seq()]->committed_at;
    };
    if (!Forward(std::move(outgoing), committed_at)) return;
  }
}

void ForwardStream::TailMoved() {
  absl::MutexLock lock(&mu_);
  if (in_tail_) ReadTail(/*own_too=*/false);
}

void ForwardStream::TailLost() {
  absl::MutexLock lock(&mu_);
  if (finished_ || !std::exchange(in_tail_, false)) return;
  Subscribe();
}

void ForwardStream::Enqueue(Outgoing outgoing) {
  // While a message is being written, later entries gather in the next one.
  if (outgoing.records > 0 && outgoing_.size() > (writing_ ? 1u : 0u)) {
    Outgoing& last = outgoing_.back();
    if (last.records > 0 && last.records + outgoing.records <= kMaxBatchRecords &&
        last.wire_bytes + outgoing.wire_bytes <= kMaxBatchBytes) {
      v1::Entries& into = *last.message.mutable_entries();
      for (record::v1::Entry& entry : *outgoing.message.mutable_entries()->mutable_entries()) {
        into.add_entries()->Swap(&entry);
      }
      into.set_head_seq(outgoing.message.entries().head_seq());
      last.last = outgoing.last;
      last.records += outgoing.records;
      last.wire_bytes += outgoing.wire_bytes;
      return Pump();
    }
  }
  outgoing_.push_back(std::move(outgoing));
  Pump();
}

void ForwardStream::Pump() {
  if (finished_ || writing_ || outgoing_.empty()) return;
  const Outgoing& next = outgoing_.front();
  writing_ = true;
  wrote_lately_ = true;
  // Before the write, so that no ack can come earlier than this.
  if (next.records > 0) {
    collection_->Sent(hello_.node(), id_, next.last, next.wire_bytes, next.records);
  }
  StartWrite(&next.message);
}

void ForwardStream::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mu_);
  writing_ = false;
  outgoing_.pop_front();
  if (!ok) return CloseLocked(absl::UnavailableError("the replica's stream broke"));
  Pump();
}

void ForwardStream::Heartbeat(Seq head) {
  absl::MutexLock lock(&mu_);
  if (finished_ || !collection_) return;
  if (!std::exchange(wrote_lately_, false) && outgoing_.empty()) {
    Outgoing outgoing;
    outgoing.message.mutable_entries()->set_head_seq(head.value());
    Enqueue(std::move(outgoing));
    wrote_lately_ = false;  // A heartbeat in every period.
  }
}

void ForwardStream::Serve(const std::string& session) {
  absl::MutexLock lock(&mu_);
  if (finished_ || outgoing_.size() >= kMaxOrders) return;
  Outgoing outgoing;
  outgoing.message.mutable_serve()->set_session(session);
  Enqueue(std::move(outgoing));
}

void ForwardStream::Close(const absl::Status& status) {
  absl::MutexLock lock(&mu_);
  CloseLocked(status);
}

void ForwardStream::CloseLocked(const absl::Status& status) {
  if (finished_) return;
  finished_ = true;
  if (collection_) {
    collection_->Detach(hello_.node(), id_);
    log::Info("replica's stream ends", {{"collection", hello_.collection()},
                                        {"node", hello_.node()},
                                        {"status", status.ToString()}});
  }
  DropReader();
  while (outgoing_.size() > (writing_ ? 1u : 0u)) outgoing_.pop_back();
  Finish(ToGrpc(status));
  // A peer that does not read keeps the status, and so the call, from ending.
  environment_->timers.After(environment_->options.cut_off, [weak = weak_from_this()] {
    if (auto stream = weak.lock()) {
      absl::MutexLock lock(&stream->mu_);
      if (!stream->done_) stream->context_->TryCancel();
    }
  });
}

void ForwardStream::DropReader() {
  if (std::exchange(in_tail_, false)) collection_->tail().Leave(id_);
  if (!reader_) return;
  reader_->Cancel();
  reader_.reset();
}

void ForwardStream::OnCancel() { Close(absl::CancelledError("the replica went away")); }

void ForwardStream::OnDone() {
  std::shared_ptr<OpenCalls> calls = environment_->calls;
  uint64_t call = call_;
  {
    absl::MutexLock lock(&mu_);
    done_ = true;
  }
  self_.reset();  // Perhaps the last.
  calls->Remove(call);
}

}  // namespace intermezzo::forwarder
