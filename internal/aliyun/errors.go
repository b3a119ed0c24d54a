package aliyun

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Error classes. The cloud's HTTP statuses differ between actions and generations of the API, so a class follows from
// the error code alone; only an answer without a code is classed by its status.
var (
	// ErrThrottled: too many calls. Nothing was done.
	ErrThrottled = errors.New("throttled by the cloud")
	// ErrNotFound: the named object does not exist.
	ErrNotFound = errors.New("not found in the cloud")
	// ErrVSwitchFull: the vSwitch has too few free addresses for the request.
	ErrVSwitchFull = errors.New("vSwitch has no free address")
	// ErrQuota: a limit is reached. Those that call for different answers are also one of the four that follow, which
	// match ErrQuota too.
	ErrQuota = errors.New("cloud quota reached")
	// ErrIPCount: the ENI has as many addresses of the family as its instance type allows.
	ErrIPCount = fmt.Errorf("addresses of the ENI: %w", ErrQuota)
	// ErrENICount: the instance has as many ENIs as its type allows.
	ErrENICount = fmt.Errorf("ENIs of the instance: %w", ErrQuota)
	// ErrENITotal: the account has as many ENIs as it may in the region.
	ErrENITotal = fmt.Errorf("ENIs of the account: %w", ErrQuota)
	// ErrGroupFull: a security group has as many members as it may.
	ErrGroupFull = fmt.Errorf("members of the security group: %w", ErrQuota)
	// ErrForbidden: the credentials are refused or lack a permission.
	ErrForbidden = errors.New("refused by the cloud")
	// ErrConflict: the object is in a state that does not allow the change now.
	ErrConflict = errors.New("conflicting state in the cloud")
	// ErrUnavailable: no usable answer. Whether a change was made is unknown.
	ErrUnavailable = errors.New("cloud unavailable")
)

// Error codes that callers inside this package decide by.
const (
	codeEniNotFound       = "InvalidEniId.NotFound"
	codeEcsNotFound       = "InvalidEcsId.NotFound"
	codeIPUnassigned      = "InvalidIp.IpUnassigned"
	codeOperationConflict = "Operation.Conflict"
)

// An APIError is an error answer of the cloud. It matches the sentinel of its class with errors.Is.
type APIError struct {
	Action     string
	Code       string // empty when the body was not the API's
	Message    string
	RequestID  string
	HTTPStatus int
}

// Error names the action, the code and the request, which is what the vendor's support asks for.
func (e *APIError) Error() string {
	code := e.Code
	if code == "" {
		code = http.StatusText(e.HTTPStatus)
	}
	return fmt.Sprintf("%s: %s: %s (status %d, request %s)", e.Action, code, e.Message, e.HTTPStatus, e.RequestID)
}

// Is reports whether target is the error class of the code.
func (e *APIError) Is(target error) bool {
	class := classOf(e.Code)
	if class == nil && (e.HTTPStatus >= http.StatusInternalServerError || e.HTTPStatus == http.StatusRequestTimeout) {
		class = ErrUnavailable
	}
	if class == nil && e.Code == "" && e.HTTPStatus == http.StatusTooManyRequests {
		class = ErrThrottled
	}
	return class != nil && errors.Is(class, target)
}

// A codeFamily maps error codes to a class. A code that ends in "." or "*" stands for every code it begins.
type codeFamily struct {
	class error
	codes []string
}

// codeFamilies is searched in order: an exact code that breaks out of a family stands before the family.
var codeFamilies = []codeFamily{
	{ErrForbidden, []string{
		"Forbidden*", "NoPermission*", "InvalidAccessKeyId*", "SignatureDoesNotMatch", "SignatureNonceUsed",
		"IncompleteSignature", "InvalidTimeStamp.", "InvalidSecurityToken*", "MissingSecurityToken",
		"InvalidUserType.NotSupported", "Abs.InvalidAccount.NotFound", "AuthenticationFail*", "EntityNotExist.Role",
	}},
	{ErrThrottled, []string{"Throttling*"}},
	{ErrRecordConflict, []string{"Record.Invalid.Conflict"}},
	{ErrInvalidRecord, []string{"Record.Invalid.", "Zone.Remark"}},
	{ErrZoneGone, []string{"Zone.NotExists", "Zone.Invalid.Id", "Zone.Invalid.UserId", "ZoneVpc.NotExists.VpcId"}},
	{ErrVSwitchFull, []string{"InvalidVSwitchId.IpNotEnough", "QuotaExceeded.PrivateIpAddress"}},
	{ErrIPCount, []string{"InvalidOperation.Ipv4CountExceeded", "InvalidOperation.Ipv6CountExceeded"}},
	{ErrENICount, []string{"EniPerInstanceLimitExceeded"}},
	{ErrENITotal, []string{"MaxEniCountExceeded"}},
	{ErrGroupFull, []string{"SecurityGroupInstanceLimitExceed*"}},
	{ErrQuota, []string{"QuotaExceeded*"}},
	{ErrConflict, []string{
		codeOperationConflict, "InvalidOperation.InvalidEniState", "InvalidOperation.InvalidEcsState",
		"IncorrectStatus*", "IncorrectInstanceStatus*", "IdempotentProcessing", "IdempotentFailed",
		"IdempotentParameterMismatch",
	}},
	{ErrUnavailable, []string{"InternalError*", "ServiceUnavailable*", "System.Busy"}},
}

func classOf(code string) error {
	for _, f := range codeFamilies {
		if slices.ContainsFunc(f.codes, func(pattern string) bool { return codeMatches(pattern, code) }) {
			return f.class
		}
	}
	// InvalidAction.NotFound says that the API lacks the action, which is no state of an object.
	if strings.HasSuffix(code, ".NotFound") && code != "InvalidAction.NotFound" {
		return ErrNotFound
	}
	return nil
}

func codeMatches(pattern, code string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(code, prefix)
	}
	if strings.HasSuffix(pattern, ".") {
		return strings.HasPrefix(code, pattern)
	}
	return pattern == code
}

// hasCode reports whether err is an answer with one of the codes.
func hasCode(err error, codes ...string) bool {
	api, ok := errors.AsType[*APIError](err)
	return ok && slices.Contains(codes, api.Code)
}

const (
	maxBodyShown = 200 // characters of a body that is not the API's
	maxMessage   = 500 // bytes
)

// signedText begins what the API tells of a request whose signature is wrong: all that was signed, with the security token.
var signedText = regexp.MustCompile(`(?i)\s*(server string to sign is|canonical request is)\s*:`)

// decodeError reads an error answer. Bodies that are not the API's (a proxy's page, a numeric Code) still give an
// APIError, classed by the status.
func decodeError(action string, status int, body []byte) *APIError {
	var wire struct {
		RequestID looseString `json:"RequestId"`
		Code      looseString
		Message   looseString
	}
	e := &APIError{Action: action, HTTPStatus: status}
	if err := json.Unmarshal(body, &wire); err != nil {
		e.Message = showable(fmt.Sprintf("%.*q", maxBodyShown, showable(string(body))))
		return e
	}
	e.Code, e.Message, e.RequestID = string(wire.Code), showable(string(wire.Message)), string(wire.RequestID)
	return e
}

// showable cuts a message before what must not get into a log or an Event, and at maxMessage.
func showable(message string) string {
	if at := signedText.FindStringIndex(message); at != nil {
		message = message[:at[0]] + " (what was signed is left out)"
	}
	if len(message) <= maxMessage {
		return message
	}
	const more = "..."
	end := maxMessage - len(more)
	for end > 0 && !utf8.RuneStart(message[end]) {
		end--
	}
	return message[:end] + more
}

// A looseString takes any JSON scalar. Gateways in front of the API answer with numeric codes.
type looseString string

// UnmarshalJSON never fails on well-formed JSON; objects and arrays give the empty string.
func (s *looseString) UnmarshalJSON(b []byte) error {
	switch {
	case len(b) == 0, string(b) == "null", b[0] == '{', b[0] == '[':
		*s = ""
		return nil
	case b[0] == '"':
		return json.Unmarshal(b, (*string)(s))
	}
	*s = looseString(b)
	return nil
}
