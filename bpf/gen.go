package bpf

// The objects are built with clang 19 on any machine and committed; `make verify` builds them again and compares.
//
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -type frontend_kind -type block_flags -type block_head -type block_policy -type block_more -type pod_flags -type backend_cell -type dns_answer -type dns_view -output-stem sock sock c/sock.bpf.c -- -Ic -O2 -g -mcpu=v3 -Wall -Werror
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -type flow_flags -type way -type node_address_flags -type packet_count -type answer_flags -type dns_outcome -type policy_word -type policy_outcome -type tracked_flags -type tracked_end -type interval_flags -type interval -type policy_event -output-stem packet packet c/packet.bpf.c -- -Ic -O2 -g -mcpu=v3 -Wall -Werror
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -output-stem guard guard c/guard.bpf.c -- -Ic -O2 -g -mcpu=v3 -Wall -Werror
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -type stranded_socket -output-stem reap reap c/reap.bpf.c -- -Ic -O2 -g -mcpu=v3 -Wall -Werror
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -output-stem bypass bypass c/bypass.bpf.c -- -Ic -O2 -g -mcpu=v3 -Wall -Werror
