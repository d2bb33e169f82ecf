from transformers.utils import logging

from toplora_train.run.platform.console import open_console


def test_loading_a_model_shows_no_progress_bar(capsys):
    logging.enable_progress_bar()
    try:
        console = open_console()
        list(logging.tqdm(range(3)))
        assert capsys.readouterr().err == ""
        console.print("ready")
        assert capsys.readouterr().out == "ready\n"
    finally:
        logging.enable_progress_bar()
