/* SPDX-License-Identifier: Apache-2.0 */
/* The least that who asks an upstream can do: it sends a question on, and the reply back, one after another. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int parse(struct sockaddr_in *at, const char *address, const char *port)
{
	at->sin_family = AF_INET;
	at->sin_port = htons(atoi(port));
	return inet_pton(AF_INET, address, &at->sin_addr) == 1;
}

int main(int argc, char **argv)
{
	struct sockaddr_in at = {}, to = {}, from;
	char buf[1500], id[2];
	int fd = socket(AF_INET, SOCK_DGRAM, 0), up = socket(AF_INET, SOCK_DGRAM, 0);

	if (argc != 5 || !parse(&at, argv[1], argv[2]) || !parse(&to, argv[3], argv[4])) {
		fprintf(stderr, "use: %s ADDRESS PORT UPSTREAM PORT\n", argv[0]);
		return 2;
	}
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at))) {
		perror("bind");
		return 1;
	}
	if (up < 0 || connect(up, (struct sockaddr *)&to, sizeof(to))) {
		perror("connect");
		return 1;
	}
	for (;;) {
		socklen_t len = sizeof(from);
		ssize_t n = recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len);

		if (n < (ssize_t)sizeof(id))
			continue;
		memcpy(id, buf, sizeof(id));
		if (send(up, buf, n, 0) < 0) {
			perror("send");
			continue;
		}
		do
			n = recv(up, buf, sizeof(buf), 0);
		while (n >= (ssize_t)sizeof(id) && memcmp(id, buf, sizeof(id)));
		if (n >= 0 && sendto(fd, buf, n, 0, (struct sockaddr *)&from, len) < 0)
			perror("sendto");
	}
}
