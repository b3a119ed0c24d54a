package hostnet

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// A dbusMethod is a method of a service on the system bus that takes nothing, or one number. Two such calls are all that
// is needed of D-Bus, and a library is many times this file (D-Bus specification, "Message Protocol" and "Authentication
// Protocol").
type dbusMethod struct {
	destination, path, iface, member string
	arg                              *uint32
}

// The methods that make the managers read their files again.
var (
	reloadNetworkd       = dbusMethod{"org.freedesktop.network1", "/org/freedesktop/network1", "org.freedesktop.network1.Manager", "Reload", nil}
	reloadNetworkManager = dbusMethod{"org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager", "org.freedesktop.NetworkManager", "Reload", new(uint32(1))} // the configuration
	hello                = dbusMethod{"org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", nil}
)

// Parts of messages.
const (
	dbusCallType, dbusReturn, dbusError           = 1, 2, 3
	dbusNoAutoStart                               = 2
	fieldPath, fieldInterface, fieldMember        = 1, 2, 3
	fieldError, fieldReply, fieldDest, fieldTypes = 4, 5, 6, 8
	dbusHeader                                    = 16
	dbusLimit                                     = 1 << 20 // bytes of an answer
)

// dbusCall calls a method and waits for its answer. A service that does not run is not started.
func dbusCall(socket string, m dbusMethod, patience time.Duration) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("tell %s to read its files again: %w", m.destination, err)
		}
	}()
	conn, err := net.DialTimeout("unix", socket, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	if _, err := fmt.Fprintf(conn, "\x00AUTH EXTERNAL %s\r\n", hex.EncodeToString([]byte(strconv.Itoa(os.Geteuid())))); err != nil {
		return err
	}
	if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "OK ") {
		return errors.Join(fmt.Errorf("the bus answers %q to our user", line), err)
	}
	if _, err := io.WriteString(conn, "BEGIN\r\n"); err != nil {
		return err
	}
	for serial, m := range []dbusMethod{hello, m} {
		if _, err := conn.Write(m.message(uint32(serial + 1))); err != nil {
			return err
		}
		if err := dbusAnswer(r, uint32(serial+1)); err != nil {
			return err
		}
	}
	return nil
}

// message is the call as it is sent, little endian.
func (m dbusMethod) message(serial uint32) []byte {
	var body, fields []byte
	field := func(code byte, kind, value string) {
		fields = append(pad(fields, 8), code, 1, kind[0], 0)
		if kind == "g" {
			fields = append(fields, byte(len(value)))
		} else {
			fields = binary.LittleEndian.AppendUint32(fields, uint32(len(value)))
		}
		fields = append(append(fields, value...), 0)
	}
	field(fieldPath, "o", m.path)
	field(fieldInterface, "s", m.iface)
	field(fieldMember, "s", m.member)
	field(fieldDest, "s", m.destination)
	if m.arg != nil {
		field(fieldTypes, "g", "u")
		body = binary.LittleEndian.AppendUint32(body, *m.arg)
	}
	out := []byte{'l', dbusCallType, dbusNoAutoStart, 1}
	out = binary.LittleEndian.AppendUint32(out, uint32(len(body)))
	out = binary.LittleEndian.AppendUint32(out, serial)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(fields)))
	return append(pad(append(out, fields...), 8), body...)
}

func pad(b []byte, to int) []byte {
	for len(b)%to != 0 {
		b = append(b, 0)
	}
	return b
}

// dbusAnswer reads until the answer to a call comes: signals may be before it.
func dbusAnswer(r io.Reader, serial uint32) error {
	for {
		head := make([]byte, dbusHeader)
		if _, err := io.ReadFull(r, head); err != nil {
			return err
		}
		var order binary.ByteOrder = binary.LittleEndian
		if head[0] == 'B' {
			order = binary.BigEndian
		}
		body, fields := order.Uint32(head[4:]), order.Uint32(head[12:])
		if body > dbusLimit || fields > dbusLimit {
			return fmt.Errorf("an answer of %d and %d bytes", fields, body)
		}
		rest := make([]byte, (fields+7)&^7+body)
		if _, err := io.ReadFull(r, rest); err != nil {
			return err
		}
		reply, name := dbusFields(rest[:fields], order)
		switch {
		case reply != serial:
		case head[1] == dbusReturn:
			return nil
		case head[1] == dbusError:
			return fmt.Errorf("the bus says %s", name)
		}
	}
}

// dbusFields are which call is answered, and the name of the error. What is malformed ends them.
func dbusFields(b []byte, order binary.ByteOrder) (reply uint32, errName string) {
	for at := 0; at+8 <= len(b); at = (at + 7) &^ 7 {
		code, kind := b[at], b[at+2]
		at += 4
		length := int(order.Uint32(b[at:]))
		switch kind {
		case 'u':
			if code == fieldReply {
				reply = uint32(length)
			}
			at += 4
			continue
		case 'g':
			at += int(b[at]) + 2
			continue
		case 's', 'o':
		default:
			return reply, errName
		}
		at += 4
		if length < 0 || length > len(b)-at {
			return reply, errName
		}
		if code == fieldError {
			errName = string(b[at : at+length])
		}
		at += length + 1
	}
	return reply, errName
}
