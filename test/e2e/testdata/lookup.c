// lookup ROUNDS NAME... prints, for each name, what the C library finds as programs ask it: addresses, or the records of
// type SRV of a name that begins with an underscore.
#define _GNU_SOURCE // EAI_NODATA
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <resolv.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#ifndef EAI_NODATA
#define EAI_NODATA EAI_NONAME
#endif

static void addresses(const char *name) {
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *all;
	int err = getaddrinfo(name, NULL, &hints, &all);
	if (err) {
		printf(" none");
		if (err != EAI_NONAME && err != EAI_NODATA)
			printf(": %s", gai_strerror(err));
		return;
	}
	for (struct addrinfo *a = all; a; a = a->ai_next) {
		char text[INET6_ADDRSTRLEN];
		void *addr = a->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)a->ai_addr)->sin_addr
						     : (void *)&((struct sockaddr_in6 *)a->ai_addr)->sin6_addr;
		printf(" %s", inet_ntop(a->ai_family, addr, text, sizeof text));
	}
	freeaddrinfo(all);
}

static void services(const char *name) {
	unsigned char answer[4096];
	int n = res_search(name, ns_c_in, ns_t_srv, answer, sizeof answer);
	ns_msg msg;
	ns_rr rr;
	if (n < 0 || ns_initparse(answer, n, &msg) || ns_msg_count(msg, ns_s_an) == 0) {
		printf(" none");
		return;
	}
	for (int i = 0; i < ns_msg_count(msg, ns_s_an); i++) {
		char target[NS_MAXDNAME];
		const unsigned char *data;
		if (ns_parserr(&msg, ns_s_an, i, &rr) || ns_rr_type(rr) != ns_t_srv)
			continue;
		data = ns_rr_rdata(rr);
		if (ns_name_uncompress(answer, answer + n, data + 6, target, sizeof target) < 0)
			continue;
		printf(" %d,%d,%d,%s", ns_get16(data), ns_get16(data + 2), ns_get16(data + 4), target);
	}
}

int main(int argc, char **argv) {
	for (int rounds = argc > 1 ? atoi(argv[1]) : 0; rounds > 0; rounds--) {
		for (int i = 2; i < argc; i++) {
			printf("%s", argv[i]);
			(argv[i][0] == '_' ? services : addresses)(argv[i]);
			printf("\n");
		}
	}
	return 0;
}
