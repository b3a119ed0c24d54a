package bpf

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrTooLarge is returned for an answer that programs cannot give. The text says why. What was published under its key before
// stands.
var ErrTooLarge = errors.New("answer does not fit")

// An AnswerKey is what an answer is found by.
type AnswerKey struct {
	// Name is in the presentation form of RFC 1035, section 5.1, in any case and with or without the final dot. Where a key
	// is returned it is in lower case and has the dot.
	Name string
	Type uint16
	// Scope is that of the pods that get the answer, see Pod; 0: all pods, unless there is another for their own.
	Scope uint32
}

// An AnswerLife says how long an answer is good.
type AnswerLife struct {
	// Aged makes the TTLs count down from when the answer was put, to 1.
	Aged bool
	// Expires is how long after that the answer is no longer given; 0: never.
	Expires time.Duration
}

// NameFlags say what programs may answer about a name beyond what is entered.
type NameFlags uint8

// Questions that go to the agent when their type is not entered: NameAskA and so on by type, NameAskAll whatever the type. Others
// have no data. NameAskBelow is about names that end with this one: without it, those not entered do not exist.
const (
	NameAskA     = NameFlags(packetAnswerFlagsNAME_ASK_A)
	NameAskAAAA  = NameFlags(packetAnswerFlagsNAME_ASK_AAAA)
	NameAskSRV   = NameFlags(packetAnswerFlagsNAME_ASK_SRV)
	NameAskAll   = NameFlags(packetAnswerFlagsNAME_ASK_ALL)
	NameAskBelow = NameFlags(packetAnswerFlagsNAME_ASK_BELOW)
	// NameAddresses says that the name has an address of one family at least. Pods with a scope are told that it has none of
	// the other only if so: else they may be searching, and the agent knows where to go on.
	NameAddresses = NameFlags(packetAnswerFlagsNAME_ADDRESSES)
)

// allNameFlags are those of names, without those of answers.
const allNameFlags = NameAskA | NameAskAAAA | NameAskSRV | NameAskAll | NameAskBelow | NameAddresses

// An Answer is what is published under a key.
type Answer struct {
	AnswerKey
	AnswerLife           // Expires is what is left of it, negative if it is over
	Names      NameFlags // of Type 0, which is the name itself
	// Response is as StoredAnswer makes it, with the TTLs as they were put; nil for a name.
	Response []byte
	Age      time.Duration // since it was put
	Hits     uint32        // how often it was given since then
}

// Answers are what programs answer pods' questions with. Methods are safe for concurrent use as long as no two of them name
// the same name.
type Answers struct {
	small, large, counts, pods *ebpf.Map

	zone    *sockDnsZone // shared with the programs
	mapped  []byte
	stamp   atomic.Uint64
	mu      sync.Mutex    // guards what is below, and the views of the zone
	settled chan struct{} // closed when nobody reads the view that is not current
	grace   *grace
}

func newAnswers(m *sockMaps) (*Answers, error) {
	a := &Answers{
		small: m.DnsAnswers, large: m.DnsLarge, counts: m.DnsCounts, pods: m.PodAddresses,
		settled: make(chan struct{}),
	}
	close(a.settled)
	var random [5]uint64
	if err := binary.Read(rand.Reader, binary.NativeEndian, &random); err != nil {
		return nil, fmt.Errorf("draw a secret: %w", err)
	}
	a.stamp.Store(random[4])
	var err error
	if a.mapped, err = unix.Mmap(m.DnsZone.FD(), 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map dns_zone: %w", err)
	}
	a.zone = (*sockDnsZone)(unsafe.Pointer(&a.mapped[0]))
	if a.zone.Secret == [4]uint64{} {
		a.zone.Secret = [4]uint64{random[0], random[1], random[2] | 1, random[3] | 1}
	}
	if a.grace, err = newGrace(); err != nil {
		return nil, errors.Join(err, unix.Munmap(a.mapped))
	}
	return a, nil
}

func (a *Answers) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	<-a.settled
	return errors.Join(a.grace.close(), unix.Munmap(a.mapped))
}

// Put publishes a response: a packed message whose question is the key's. From its header programs take AA, RA and the status;
// OPT is theirs. Of several A or AAAA of one owner each comes first in its turn. Errors are ErrTooLarge and ErrFull.
func (a *Answers) Put(k AnswerKey, response []byte, life AnswerLife) error {
	e, err := newEntry(k, response, life.Aged)
	if err == nil {
		err = a.put(e, life)
	}
	if err != nil {
		return fmt.Errorf("put answer %s: %w", k, err)
	}
	return nil
}

// PutName says that a name exists, and what else may be asked about it. Errors are ErrTooLarge and ErrFull.
func (a *Answers) PutName(name string, flags NameFlags) error {
	wire, err := packName(name)
	if err == nil {
		e := entry{name: wire}
		e.head.Flags = uint8(flags & allNameFlags)
		err = a.put(&e, AnswerLife{})
	}
	if err != nil {
		return fmt.Errorf("put name %s: %w", name, err)
	}
	return nil
}

// put writes what is large before what refers to it, and deletes what was large when nothing refers to it any more. Who has seen the
// reference and does not find it looks again: see find_answer of bpf/c/dns_find.h.
func (a *Answers) put(e *entry, life AnswerLife) error {
	now, err := Clock()
	if err != nil {
		return err
	}
	e.head.Stamp, e.head.Born = a.stamp.Add(1), uint64(now)
	if life.Expires != 0 {
		e.head.Expires = uint64(max(now+life.Expires, 1))
	}
	key := a.key(e.name, e.head.Type, e.head.Scope)
	if e.isSmall() {
		if err := a.small.Update(key, e.small(), ebpf.UpdateAny); err != nil {
			return full(err, a.small)
		}
		return ignoreMissing(a.large.Delete(key))
	}
	large, err := e.large()
	if err != nil {
		return err
	}
	if err := a.large.Update(key, large, ebpf.UpdateAny); err != nil {
		return full(err, a.large)
	}
	if err := a.small.Update(key, e.marker(), ebpf.UpdateAny); err != nil {
		return errors.Join(full(err, a.small), ignoreMissing(a.large.Delete(key)))
	}
	return nil
}

// Delete takes an answer back; it is no error if there is none.
func (a *Answers) Delete(k AnswerKey) error {
	wire, err := packName(k.Name)
	if err == nil {
		err = a.delete(a.key(wire, k.Type, k.Scope))
	}
	if err != nil {
		return fmt.Errorf("delete answer %s: %w", k, err)
	}
	return nil
}

// DeleteName takes back what PutName said; it is no error if it said nothing.
func (a *Answers) DeleteName(name string) error { return a.Delete(AnswerKey{Name: name}) }

func (a *Answers) delete(key sockAnswerKey) error {
	return errors.Join(ignoreMissing(a.small.Delete(key)), ignoreMissing(a.large.Delete(key)))
}

// key is made as by take_name of bpf/c/dns_question.h.
func (a *Answers) key(name []byte, rrtype uint16, scope uint32) sockAnswerKey {
	return sockAnswerKey{Hash: hashName(&a.zone.Secret, name), Type: rrtype, Scope: scope}
}

func hashName(secret *[4]uint64, name []byte) [2]uint64 {
	h := [2]uint64{secret[0], secret[1]}
	for _, w := range nameWords(name) {
		h[0] = (h[0] ^ w) * secret[2]
		h[0] ^= h[0] >> 32
		h[1] = (h[1] + w) * secret[3]
		h[1] ^= h[1] >> 29
	}
	return h
}

// Lookup returns what is published under a key; Type 0 is the name itself.
func (a *Answers) Lookup(k AnswerKey) (Answer, bool, error) {
	wire, err := packName(k.Name)
	if err != nil {
		return Answer{}, false, fmt.Errorf("look up answer %s: %w", k, err)
	}
	key := a.key(wire, k.Type, k.Scope)
	for range 2 { // what is large may become small between the two maps
		var small sockSmallAnswer
		if err = a.small.Lookup(key, &small); err != nil {
			break
		}
		answer, err := a.read(key, small)
		if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return answer, err == nil, err
		}
	}
	if ignoreMissing(err) != nil {
		return Answer{}, false, fmt.Errorf("look up answer %s: %w", k, err)
	}
	return Answer{}, false, nil
}

// read makes an Answer of an element of dns_answers. ErrKeyNotExist: it has changed meanwhile.
func (a *Answers) read(key sockAnswerKey, small sockSmallAnswer) (Answer, error) {
	head, data := small.Head, small.Data[:]
	if head.Flags&uint8(packetAnswerFlagsANSWER_LARGE) != 0 {
		var large sockLargeAnswer
		if err := a.large.Lookup(key, &large); err != nil {
			return Answer{}, err
		}
		head, data = large.Head, large.Data[:]
	}
	now, err := Clock()
	if err != nil {
		return Answer{}, err
	}
	return newAnswer(head, data, now)
}

// answerBatch is how many elements are read by one system call.
const answerBatch = 1024

// each calls visit for the elements until it says no.
func (a *Answers) each(visit func(sockAnswerKey, sockSmallAnswer) bool) error {
	var cursor ebpf.MapBatchCursor
	keys, values := make([]sockAnswerKey, answerBatch), make([]sockSmallAnswer, answerBatch)
	for {
		n, err := a.small.BatchLookup(&cursor, keys, values, nil)
		end := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !end {
			return fmt.Errorf("read answers: %w", err)
		}
		for i := range n {
			if !visit(keys[i], values[i]) {
				return nil
			}
		}
		if end {
			return nil
		}
	}
}

// All reads everything that is published, in no order. What changes meanwhile may be left out, or come twice.
func (a *Answers) All() iter.Seq2[Answer, error] {
	return func(yield func(Answer, error) bool) {
		err := a.each(func(key sockAnswerKey, value sockSmallAnswer) bool {
			answer, err := a.read(key, value)
			return errors.Is(err, ebpf.ErrKeyNotExist) || yield(answer, err)
		})
		if err != nil {
			yield(Answer{}, err)
		}
	}
}

// DropScope takes back the answers of one scope.
func (a *Answers) DropScope(id uint32) error {
	return a.drop(func(k sockAnswerKey) bool { return k.Scope == id })
}

// DropScoped takes back those of all scopes.
func (a *Answers) DropScoped() error {
	return a.drop(func(k sockAnswerKey) bool { return k.Scope != 0 })
}

func (a *Answers) drop(match func(sockAnswerKey) bool) error {
	var keys []sockAnswerKey
	errs := []error{a.each(func(key sockAnswerKey, _ sockSmallAnswer) bool {
		if match(key) {
			keys = append(keys, key)
		}
		return true
	})}
	for _, key := range keys {
		errs = append(errs, a.delete(key))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("drop answers: %w", err)
	}
	return nil
}
