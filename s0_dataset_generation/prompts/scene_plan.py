"""How the sentences of a run are spread over settings, lengths and voices, whatever their label."""

from dataclasses import dataclass

SETTINGS = (
    "a hospital or surgery",
    "a school or university",
    "a farm or garden",
    "a kitchen or restaurant",
    "a sports club",
    "a bus, train or airport",
    "a ship or harbour",
    "a building site",
    "an office",
    "a shop or market",
    "a family meal",
    "a wedding or funeral",
    "a neighbours' staircase",
    "a workshop or garage",
    "a town hall or court",
    "a newspaper or radio station",
    "a laboratory",
    "a hotel or campsite",
    "a choir, band or theatre",
    "a bank or post office",
    "a police or fire station",
    "a chat group or video call",
    "a mountain or forest path",
    "a beach or swimming pool",
    "a museum or library",
    "a place of worship",
    "an army barracks",
    "a factory or warehouse",
    "a care home",
    "a playground",
    "a shared flat",
    "a charity or club committee",
    "a film set",
    "a stable or kennel",
    "a border post",
    "a scene before 1930",
)
WORD_BANDS = ((6, 10), (11, 15), (16, 20), (21, 27))  # words a sentence is asked to have
BAND_TOLERANCE = 3  # words beyond its band with which a sentence is still accepted
VOICES = ("first person", "third person", "third person with a line of direct speech")


@dataclass(frozen=True)
class Slot:
    """One sentence to be written: a scene, the label, the words it may have and the voice."""

    scenario_id: str
    scene: str
    label: int
    words: tuple[int, int]
    voice: str

    @classmethod
    def of_scene(cls, index: int, scenario_id: str, scene: str, label: int) -> "Slot":
        """Words and voice follow from the scene's place among the scenes, the same for every label."""
        words = WORD_BANDS[index % len(WORD_BANDS)]
        voice = VOICES[index // len(WORD_BANDS) % len(VOICES)]
        return cls(scenario_id, scene, label, words, voice)
