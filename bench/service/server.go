package service

import (
	"errors"
	"fmt"
	"io"
	"net"
)

// The first byte of a connection says what it is for.
const (
	purposeEcho = 'e'
	purposeSink = 's'
)

// serve answers on every address until in ends. It prints a line when it listens.
func serveServer(in io.Reader, out io.Writer) error {
	l, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		_ = l.Close()
	}()
	if _, err := fmt.Fprintln(out, "listening"); err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go answer(c)
	}
}

// answer ends with its connection.
func answer(c net.Conn) {
	defer c.Close()
	purpose := make([]byte, 1)
	if _, err := io.ReadFull(c, purpose); err != nil {
		return
	}
	if purpose[0] == purposeSink {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 1<<18))
		return
	}
	b := make([]byte, 1)
	for {
		if _, err := c.Read(b); err != nil {
			return
		}
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}
