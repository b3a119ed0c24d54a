/* SPDX-License-Identifier: Apache-2.0 */
/* The least that a server can do: it sends every datagram back. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_in at = { .sin_family = AF_INET }, from;
	char buf[1500];
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (argc != 3 || inet_pton(AF_INET, argv[1], &at.sin_addr) != 1) {
		fprintf(stderr, "use: %s ADDRESS PORT\n", argv[0]);
		return 2;
	}
	at.sin_port = htons(atoi(argv[2]));
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at))) {
		perror("bind");
		return 1;
	}
	for (;;) {
		socklen_t len = sizeof(from);
		ssize_t n = recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len);

		if (n >= 0 && sendto(fd, buf, n, 0, (struct sockaddr *)&from, len) < 0)
			perror("sendto");
	}
}
