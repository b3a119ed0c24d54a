// Package tcp is the ends of TCP connections that benchmarks make, by system calls, so that little else is timed.
package tcp

import (
	"errors"
	"fmt"
	"io"
	"net"
)

// Role is what the program bench is executed as to Serve.
const Role = "tcp-server"

// Port is where Serve listens.
const Port = 8080

// The first byte of a connection says what it is for.
const (
	PurposeEcho = 'e'
	PurposeSink = 's'
)

// Serve answers on every address until in ends. It prints a line when it listens.
func Serve(in io.Reader, out io.Writer) error {
	l, err := net.Listen("tcp4", fmt.Sprintf(":%d", Port))
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
	if purpose[0] == PurposeSink {
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
