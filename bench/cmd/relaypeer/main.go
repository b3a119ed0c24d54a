// Command relaypeer is the least that a Go program can do that asks an upstream: a goroutine for each question, which sends it
// on by a socket that no other question uses meanwhile, and sends the reply back. It reads nothing of a message but the id.
package main

import (
	"bytes"
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
)

// A relay asks one upstream.
type relay struct {
	listener *net.UDPConn
	upstream netip.AddrPort
	idle     chan *net.UDPConn // sockets that no question uses
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("use: %s ADDRESS:PORT UPSTREAM:PORT", os.Args[0])
	}
	at, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	r := relay{idle: make(chan *net.UDPConn, 64)}
	if r.upstream, err = netip.ParseAddrPort(args[1]); err != nil {
		return err
	}
	if r.listener, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); err != nil {
		return err
	}
	for {
		question := make([]byte, 1500)
		n, client, err := r.listener.ReadFromUDPAddrPort(question)
		if err != nil {
			return err
		}
		go func() {
			if err := r.serve(question[:n], client); err != nil {
				log.Print(err)
			}
		}()
	}
}

func (r *relay) serve(question []byte, client netip.AddrPort) error {
	socket, err := r.socket()
	if err != nil {
		return err
	}
	if _, err := socket.Write(question); err != nil {
		return err
	}
	reply := make([]byte, 1500)
	n := 0
	for !bytes.HasPrefix(reply[:n], question[:2]) {
		if n, err = socket.Read(reply); err != nil {
			return err
		}
	}
	if _, err := r.listener.WriteToUDPAddrPort(reply[:n], client); err != nil {
		return err
	}
	r.free(socket)
	return nil
}

func (r *relay) socket() (*net.UDPConn, error) {
	select {
	case socket := <-r.idle:
		return socket, nil
	default:
		return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(r.upstream))
	}
}

func (r *relay) free(socket *net.UDPConn) {
	select {
	case r.idle <- socket:
	default:
		_ = socket.Close()
	}
}
