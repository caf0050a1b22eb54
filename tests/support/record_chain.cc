#include "tests/support/record_chain.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/record/codec.h"

namespace intermezzo::tests {

std::vector<std::string> TableOf(const sidecar::Replica& replica) {
  std::vector<std::string> lines;
  auto view = replica.db().NewView();
  auto visit = [&](ObjectId id, const storage::v1::ObjectRow& row) {
    std::vector<std::string> links;
    for (const storage::v1::LinkRow& link : row.links()) {
      auto entry = view->Entry(ObjectId(link.parent()), link.name());
      links.push_back(absl::StrCat(" ", link.parent(), "/", link.name(), "@",
                                   entry.has_value() ? entry->version() : 0));
    }
    std::sort(links.begin(), links.end());
    lines.push_back(absl::StrCat(id.value(), " kind ", row.kind(), " data ", row.data_version(),
                                 " attributes ", row.attributes_version(),
                                 absl::StrJoin(links, "")));
    return true;
  };
  if (absl::Status status = view->ForEachObject(visit); !status.ok()) {
    lines.push_back(status.ToString());
  }
  return lines;
}

void RecordChain::Pull(sidecar::Replica& origin) {
  if (absl::Status status = origin.CutAll(); !status.ok()) {
    std::fprintf(stderr, "record chain: %s\n", status.ToString().c_str());
    std::abort();
  }
  uint64_t& last = pulled_[origin.options().ordinal.value()];
  for (;;) {
    auto entries = origin.db().ReadLocal(last, 100, 8 << 20);
    if (entries.empty()) return;
    for (auto& [origin_seq, entry] : entries) {
      Append(std::move(entry));
      last = origin_seq;
    }
  }
}

const record::v1::Entry& RecordChain::Append(record::v1::Entry entry) {
  const Seq seq(entries_.size() + 1);
  entry.set_seq(seq.value());
  entry.set_chain(ChainHash(entries_.empty() ? "" : entries_.back().chain(), seq, entry.record()));
  return entries_.emplace_back(std::move(entry));
}

std::unique_ptr<record::v1::Entry> RecordChain::NextFor(const sidecar::Replica& replica) const {
  if (replica.cursor().value() >= entries_.size()) return nullptr;
  auto entry = std::make_unique<record::v1::Entry>(entries_[replica.cursor().value()]);
  record::v1::Record record;
  record.ParseFromString(entry->record());
  if (Version(record.version()).ordinal() == replica.options().ordinal) entry->clear_payload();
  return entry;
}

absl::Status RecordChain::Feed(sidecar::Replica& replica) const {
  while (std::unique_ptr<record::v1::Entry> entry = NextFor(replica)) {
    if (absl::Status status = replica.Apply(*entry); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace intermezzo::tests
