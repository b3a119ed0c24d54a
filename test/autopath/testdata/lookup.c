// Prints the addresses that the C library finds for a name, as a program that connects asks for them.
#include <stdio.h>
#include <string.h>
#include <netdb.h>
#include <arpa/inet.h>
int main(int argc, char **argv) {
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *all;
	int err = getaddrinfo(argv[1], NULL, &hints, &all);
	if (err) { fprintf(stderr, "%s\n", gai_strerror(err)); return 1; }
	for (struct addrinfo *a = all; a; a = a->ai_next) {
		char text[64];
		void *addr = a->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)a->ai_addr)->sin_addr : (void *)&((struct sockaddr_in6 *)a->ai_addr)->sin6_addr;
		puts(inet_ntop(a->ai_family, addr, text, sizeof text));
	}
	return 0;
}
