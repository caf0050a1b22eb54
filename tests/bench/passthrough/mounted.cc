// mounted LOWER MOUNT_POINT DATABASE: one replica's mount by itself, its gate open, no servers. For
// measuring the driver and the capture; prints "mounted", serves until its input ends, then prints
// how many records were captured.
#include <cstdio>

#include "services/sidecar/fuse/fuse_presto.h"
#include "services/sidecar/replica/replica.h"

int main(int argc, char** argv) {
  using namespace intermezzo;
  if (argc != 4) {
    fprintf(stderr, "usage: %s LOWER MOUNT_POINT DATABASE\n", argv[0]);
    return 2;
  }
  auto check = [](const absl::Status& status) {
    if (status.ok()) return;
    fprintf(stderr, "%s\n", status.ToString().c_str());
    exit(1);
  };
  auto lower = sidecar::LowerTree::Open(argv[1]);
  check(lower.status());
  auto db = sidecar::NodeDb::Open(argv[3]);
  check(db.status());
  sidecar::Replica::Options options = {.collection = *CollectionName::Parse("bench"),
                                       .collection_uid = 1,
                                       .node = *NodeName::Parse("node"),
                                       .instance = "bench",
                                       .ordinal = Ordinal(1),
                                       .run = {}};
  auto replica = sidecar::Replica::Open(options, *std::move(lower), *std::move(db));
  check(replica.status());
  auto presto = sidecar::FusePresto::Create({.mount_point = argv[2]}, replica->get());
  check(presto.status());
  (*replica)->SetPresto(presto->get());
  (*replica)->gate().Open({Epoch(1)});
  check((*presto)->Mount());
  puts("mounted");
  fflush(stdout);
  while (getchar() != EOF) {
  }
  check((*replica)->CutAll());
  (*presto)->Unmount(absl::Seconds(5));
  printf("%lu records\n", (*replica)->last_origin_seq());
  return 0;
}
