"""The reasons for which calls and items are refused; programs may rely on the names, docs/errors.md lists them."""

from enum import Enum


class Reason(Enum):
    """Why something was refused: the name is what goes over the wire, the value says when."""

    MALFORMED_REQUEST = "the bytes are no message of the method's type, or hold text that is not UTF-8"
    EMPTY = "nothing stands where something must: no items, a blank text, an image without bytes"
    TOO_MANY_ITEMS = "a list holds more than it may"
    TOO_LONG = "a text has more characters than it may"
    TOO_LARGE = "an image has more pixels than are decoded, alone or together with the others of its call"
    WRONG_SHAPE = "a shape is not one that the model takes, or the data is not as long as the shape needs"
    WRONG_TYPE = "a tensor's datatype is not the schema's"
    OUT_OF_RANGE = "a number is below the least or above the most that is allowed"
    NOT_FINITE = "a number is NaN or infinite"
    DUPLICATE_NAME = "a name stands twice where it may stand once"
    UNKNOWN_NAME = "a name is none of those there are"
    CONFLICT = "fields that exclude each other are both set"
    NOT_AN_IMAGE = "the bytes are no whole PNG or JPEG file"
    INVALID_VALUE = "the model refuses the value for another reason, which the description gives"
    UNKNOWN_MODEL = "there is no model, or no version, of that name"
    UNKNOWN_USER = "the user is not in the training data, and no items were named"
    UNKNOWN_ITEM = "the item is not in the catalogue"
    UNKNOWN_VALUE = "the value names something else that does not exist"
    QUEUE_FULL = "more waits for the model than the endpoint holds"
    DEADLINE = "no time is left for the work, or less than it takes at its quickest"
    DRAINING = "the endpoint is about to stop"
    MODEL_AWAY = "the process that computes the model is starting again"
    UNAUTHENTICATED = "no token, or not a valid one"
    FORBIDDEN = "the token does not permit this method"
    INTERNAL = "a mistake of ours, to be found in the log under the request id"
